"""The optimizer's groups, Muon's orthogonal update, and a memory that can be saved and given back."""

from __future__ import annotations

import pytest
import torch

from handloom.errors import CheckpointError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.training.optimizer import Muon, Optimizer, orthogonalize

CONFIG = GPTConfig(vocab_size=50, context_length=8, layers=2, heads=2, embed_dim=8)


def build(name, model=None, decay=0.1):
    return Optimizer(model or GPT(CONFIG), name, 1e-2, decay, (0.9, 0.95))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_has_exactly_one_place(name):
    model = GPT(CONFIG)
    optimizer = build(name, model)
    placed = [id(p) for part in optimizer.parts for group in part.param_groups for p in group["params"]]
    assert sorted(placed) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_matrices_and_embeddings_decay(name):
    """With no gradient at all, exactly what has two dimensions shrinks."""
    model = GPT(CONFIG)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build(name, model, decay=0.5).step(1.0)
    for n, parameter in model.named_parameters():
        expected = before[n] * (1 - 1e-2 * 0.5) if parameter.ndim == 2 else before[n]
        torch.testing.assert_close(parameter.detach(), expected, msg=n)


def test_muon_takes_the_matrices_inside_the_blocks():
    optimizer = build("muon")
    muon = next(part for part in optimizer.parts if isinstance(part, Muon))
    shapes = sorted(tuple(p.shape) for p in muon.param_groups[0]["params"])
    assert shapes == sorted([(24, 8), (8, 8), (32, 8), (8, 32)] * 2)


@pytest.mark.parametrize("shape", [(16, 16), (40, 12), (12, 40)])
def test_orthogonalizing_brings_all_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalize(matrix)
    torch.testing.assert_close(found, orthogonalize(torch.stack([matrix, -matrix]))[0])
    values = torch.linalg.svdvals(found)
    assert S.max() / S.min() > 2
    assert values.min() > 0.6
    assert values.max() < 1.3
    # The directions are those of the matrix: in its own basis the result is diagonal.
    inside = U.T @ found @ Vh.T
    assert (inside - torch.diag(inside.diag())).abs().max() < 1e-3


def test_its_adamw_is_pytorchs():
    ours, theirs = GPT(CONFIG, seed=1), GPT(CONFIG, seed=1)
    optimizer = build("adamw", ours)
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.ndim == 2], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if p.ndim != 2], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    for step in range(3):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(step))
            b.grad = a.grad.clone()
        optimizer.step(1.0)
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_memory_given_back_goes_on_to_the_same_bits(name):
    def train(model, optimizer, steps):
        for step in steps:
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
            optimizer.step(1.0)

    straight = GPT(CONFIG)
    train(straight, build(name, straight), range(6))

    first = GPT(CONFIG)
    optimizer = build(name, first)
    train(first, optimizer, range(3))
    second = GPT(CONFIG)
    second.load_state_dict(first.state_dict())
    resumed = build(name, second)
    resumed.load_state_tensors(optimizer.state_tensors())
    train(second, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), second.parameters(), strict=True))


def test_a_foreign_memory_is_refused():
    with pytest.raises(CheckpointError, match=r"blocks\.9"):
        build("adamw").load_state_tensors({"blocks.9.attention.out.weight/exp_avg": torch.zeros(1)})


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_embeddings_alone_follow_their_own_rate(name):
    """With the same gradients, only embeddings move further: by the ratio, but for what decay takes."""
    models = []
    for ratio in (1.0, 3.0):
        model = GPT(CONFIG)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        Optimizer(model, name, 1e-2, 0.0, (0.9, 0.95), embedding_lr_ratio=ratio).step(0.5)
        models.append(model)
    for (n, begun), once, thrice in zip(GPT(CONFIG).named_parameters(), *(m.parameters() for m in models), strict=True):
        expected = once - begun if not n.startswith("embedding.") else 3 * (once - begun)
        torch.testing.assert_close(thrice - begun, expected, msg=n, atol=1e-6, rtol=1e-4)
