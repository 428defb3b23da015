"""The chunked loss is cross entropy: its value, both gradients, ignored targets, any chunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from handloom.model import loss as module
from handloom.model.loss import IGNORE_INDEX, next_token_loss, score_tokens, token_nll


class Head(nn.Module):
    """An output head with this matrix, a leaf that gradients are asked of."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, hidden):
        return F.linear(hidden, self.weight)


def case(seed, B=3, T=7, C=5, V=11, ignored=0.3):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, T, C, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(V, C, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(V, (B, T), generator=generator)
    targets[torch.rand(B, T, generator=generator) < ignored] = IGNORE_INDEX
    return hidden, weight, targets


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), chunk=st.integers(1, 30))
def test_value_and_gradients_are_those_of_cross_entropy(seed, chunk):
    hidden, weight, targets = case(seed)
    module.CHUNK_TOKENS, before = chunk, module.CHUNK_TOKENS
    try:
        ours, count = next_token_loss(hidden, Head(weight), targets)
    finally:
        module.CHUNK_TOKENS = before
    ours_gradients = torch.autograd.grad(3.0 * ours, (hidden, weight))
    logits = (hidden @ weight.T).flatten(0, 1)
    theirs = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    theirs_gradients = torch.autograd.grad(3.0 * theirs, (hidden, weight))
    assert count == (targets != IGNORE_INDEX).sum()
    torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=1e-5)
    for a, b in zip(ours_gradients, theirs_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # the softmax is float32


def test_without_gradients_the_value_is_the_same():
    hidden, weight, targets = case(0)
    with_gradients, _ = next_token_loss(hidden, Head(weight), targets)
    with torch.no_grad():
        without, _ = next_token_loss(hidden, Head(weight), targets)
    torch.testing.assert_close(with_gradients.detach(), without, atol=1e-5, rtol=1e-6)


def test_a_batch_with_nothing_to_predict_costs_nothing():
    hidden, weight, targets = case(0)
    loss, count = next_token_loss(hidden, Head(weight), torch.full_like(targets, IGNORE_INDEX))
    assert (loss.item(), count) == (0.0, 0)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_frozen_side_gets_no_gradient_and_the_other_the_same(frozen):
    hidden, weight, targets = case(2)
    both = torch.autograd.grad(next_token_loss(hidden, Head(weight), targets)[0], (hidden, weight))
    learning = weight if frozen == "hidden" else hidden
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    next_token_loss(hidden, Head(weight), targets)[0].backward()
    assert torch.equal(learning.grad, both[1 if frozen == "hidden" else 0])
    assert (hidden if frozen == "hidden" else weight).grad is None


@pytest.mark.parametrize("mixed", [True, False])
def test_bfloat16_products_stay_close(mixed):
    hidden, weight, targets = (t.float() if t.is_floating_point() else t for t in case(1, C=32))
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    exact = torch.autograd.grad(next_token_loss(hidden, Head(weight), targets)[0], (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss, _ = next_token_loss(hidden, Head(weight), targets)
    found = torch.autograd.grad(loss, (hidden, weight))
    assert all(g.dtype == torch.float32 for g in found)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, atol=0.05 if mixed else 0.0, rtol=0.05 if mixed else 0.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), chunk=st.integers(1, 30), top=st.integers(0, 12))
def test_scores_are_those_of_the_whole_logits(seed, chunk, top):
    hidden, weight, targets = case(seed)
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    module.CHUNK_TOKENS, before = chunk, module.CHUNK_TOKENS
    try:
        scores = score_tokens(hidden, Head(weight), targets, top)
    finally:
        module.CHUNK_TOKENS = before
    p = (hidden @ weight.T).float().softmax(dim=-1)  # (N, V)
    counts = targets != IGNORE_INDEX
    assert torch.equal(scores.is_top1, p.argmax(-1) == targets)
    torch.testing.assert_close(scores.confidence, p.amax(-1))
    torch.testing.assert_close(scores.nll[counts].exp(), 1 / p[counts].gather(1, targets[counts, None])[:, 0])
    assert not scores.nll[~counts].any()
    torch.testing.assert_close(scores.top_logprobs.exp(), p.sort(-1, descending=True).values[:, :top])
    torch.testing.assert_close(p.gather(1, scores.top_ids), scores.top_logprobs.exp())
    assert not scores.nll.requires_grad


def test_nothing_to_score_is_no_error():
    scores = score_tokens(torch.zeros(0, 5), Head(torch.zeros(11, 5)), torch.zeros(0, dtype=torch.int64), 3)
    assert [tuple(part.shape) for part in scores] == [(0,), (0,), (0,), (0, 3), (0, 3)]


@pytest.mark.parametrize("loss", [next_token_loss, token_nll])
def test_a_head_without_a_weight_is_called(loss):
    hidden, weight, targets = case(3)

    class Wrapped(nn.Module):
        def forward(self, x):
            return F.linear(x, weight)

    found, expected = (loss(hidden, head, targets) for head in (Wrapped(), Head(weight)))
    if loss is next_token_loss:
        assert found[1] == expected[1]
        found, expected = found[0], expected[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    by_found, by_expected = (torch.autograd.grad(x.sum(), (hidden, weight)) for x in (found, expected))
    for a, b in zip(by_found, by_expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
