"""Activations by name: recorded as they are, replaced as asked, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

from handloom.errors import ConfigError
from handloom.inspection.hooks import activation_names, intervene, record
from handloom.model.attention import attention_weights, eager_attention
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.surgery import set_attention

CONFIG = GPTConfig(vocab_size=61, context_length=12, layers=3, heads=2, embed_dim=16)
IDS = torch.arange(20).view(2, 10)
B, T, H, D, C = 2, 10, 2, 8, 16


@pytest.fixture
def model():
    made = GPT(CONFIG, seed=3).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return made


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager", None])
def test_every_name_is_recorded_in_its_order_and_changes_nothing(model, implementation):
    set_attention(model, implementation)
    expected = model(IDS)
    with record(model, "*") as found:
        logits = model(IDS)
    assert list(found) == list(activation_names(model))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert found["logits"] is logits
    assert [block.attention.core.implementation for block in model.blocks] == [implementation] * 3
    assert hooks_of(model) == 0
    assert torch.equal(model(IDS), expected)


@torch.no_grad()
def test_what_is_recorded_is_what_its_name_says(model):
    with record(model, "*") as found:
        model(IDS)
    at = lambda name: found[f"blocks.1.{name}"]  # noqa: E731
    assert at("attention.q").shape == at("attention.z").shape == (B, H, T, D)
    core = model.blocks[1].attention.core
    pattern = attention_weights(at("attention.q"), at("attention.k"), core.scale)
    torch.testing.assert_close(at("attention.pattern"), pattern)
    torch.testing.assert_close(at("attention.scores").softmax(-1), pattern)
    torch.testing.assert_close(at("attention.z"), pattern @ at("attention.v"))
    torch.testing.assert_close(at("resid_mid"), at("resid_pre") + at("attention.out"))
    torch.testing.assert_close(at("resid_post"), at("resid_mid") + at("feedforward.out"))
    torch.testing.assert_close(at("feedforward.post"), model.blocks[1].feedforward.activation(at("feedforward.pre")))
    torch.testing.assert_close(found["blocks.0.resid_pre"], found["embed"] + found["pos_embed"])
    assert torch.equal(found["blocks.2.resid_pre"], at("resid_post"))
    assert torch.equal(model.unembed(found["final_norm"]), found["logits"])


@torch.no_grad()
def test_the_fused_kernel_gives_z_too(model):
    set_attention(model, "sdpa")
    with record(model, "blocks.0.attention.[qkvz]") as found:
        model(IDS)
    assert all(block.attention.core.implementation == "sdpa" for block in model.blocks)
    q, k, v, z = (found[f"blocks.0.attention.{name}"] for name in "qkvz")
    torch.testing.assert_close(z, eager_attention(q, k, v, scale=model.blocks[0].attention.core.scale))


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_head_that_is_zeroed_is_as_if_its_columns_of_the_projection_were_zero(model, implementation):
    set_attention(model, implementation)

    def ablate(z):
        return torch.cat([torch.zeros_like(z[:, :1]), z[:, 1:]], dim=1)

    with intervene(model, {"blocks.1.attention.z": ablate}):
        found = model(IDS)
    untouched = model(IDS)
    model.blocks[1].attention.out.weight[:, :D] = 0.0
    torch.testing.assert_close(found, model(IDS))
    assert not torch.allclose(found, untouched)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resid_pre", "resid_mid", "resid_post", "attention.q", "attention.pattern"])
def test_any_activation_can_be_replaced(model, name):
    before = model(IDS)
    with intervene(model, {f"blocks.*.{name}": lambda x: x * 0.5}), record(model, "blocks.1.resid_mid") as found:
        assert not torch.allclose(model(IDS), before)
    assert list(found) == ["blocks.1.resid_mid"]
    assert torch.equal(model(IDS), before)


def test_gradients_lead_through_what_is_recorded(model):
    with record(model, "blocks.1.resid_post") as found:
        logits = model(IDS)
    (gradient,) = torch.autograd.grad(logits.sum(), found["blocks.1.resid_post"])
    assert gradient.shape == (B, T, C)


@torch.no_grad()
def test_every_hook_is_removed_after_an_error_and_nesting_undoes_in_order(model):
    before = model(IDS)

    def fail(_):
        raise ZeroDivisionError

    with (
        record(model, "blocks.*.attention.pattern"),
        pytest.raises(ZeroDivisionError),
        intervene(model, {"blocks.2.attention.scores": fail}),
    ):
        model(IDS)
    assert hooks_of(model) == 0
    assert all(block.attention.core.implementation is None for block in model.blocks)
    assert torch.equal(model(IDS), before)


def test_a_name_that_is_not_there_is_refused_with_the_nearest(model):
    with pytest.raises(ConfigError, match="resid_post"), record(model, "blocks.1.residpost"):
        pass
    with pytest.raises(ConfigError, match=r"blocks\.0\.NAME"), intervene(model, {"zzz": lambda x: x}):
        pass
    assert hooks_of(model) == 0
