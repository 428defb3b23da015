"""The chunked loss is cross entropy: its value, both gradients, ignored targets, any chunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from handloom.model import loss as module
from handloom.model.loss import IGNORE_INDEX, next_token_loss


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
        ours, count = next_token_loss(hidden, weight, targets)
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
    with_gradients, _ = next_token_loss(hidden, weight, targets)
    with torch.no_grad():
        without, _ = next_token_loss(hidden, weight, targets)
    torch.testing.assert_close(with_gradients.detach(), without, atol=1e-5, rtol=1e-6)


def test_a_batch_with_nothing_to_predict_costs_nothing():
    hidden, weight, targets = case(0)
    loss, count = next_token_loss(hidden, weight, torch.full_like(targets, IGNORE_INDEX))
    assert (loss.item(), count) == (0.0, 0)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_frozen_side_gets_no_gradient_and_the_other_the_same(frozen):
    hidden, weight, targets = case(2)
    both = torch.autograd.grad(next_token_loss(hidden, weight, targets)[0], (hidden, weight))
    learning = weight if frozen == "hidden" else hidden
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    next_token_loss(hidden, weight, targets)[0].backward()
    assert torch.equal(learning.grad, both[1 if frozen == "hidden" else 0])
    assert (hidden if frozen == "hidden" else weight).grad is None


@pytest.mark.parametrize("mixed", [True, False])
def test_bfloat16_products_stay_close(mixed):
    hidden, weight, targets = (t.float() if t.is_floating_point() else t for t in case(1, C=32))
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    exact = torch.autograd.grad(next_token_loss(hidden, weight, targets)[0], (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss, _ = next_token_loss(hidden, weight, targets)
    found = torch.autograd.grad(loss, (hidden, weight))
    assert all(g.dtype == torch.float32 for g in found)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, atol=0.05 if mixed else 0.0, rtol=0.05 if mixed else 0.0)
