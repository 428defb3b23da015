"""Detours: nothing at first, the same merged and unmerged, stacked and switched; only they learn."""

from __future__ import annotations

import pytest
import torch

from handloom.errors import ConfigError, ModelError
from handloom.finetuning import lora
from handloom.finetuning.lora import LoRAConfig
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.quantization import bf16

CONFIG = GPTConfig(vocab_size=60, context_length=12, layers=2, heads=2, embed_dim=16, ffn_dim=40)
IDS = torch.arange(20).view(2, 10) % 60


def model(seed=0):
    """Every number random, so that nothing is hidden by a zero."""
    made, generator = GPT(CONFIG).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    return made


def stir(made, name="adapter", seed=5):
    """Give the detours of a set numbers as training might."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for detour in lora.adapter_layers(made, name).values():
            for parameter in detour.parameters():
                parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.2, generator=generator))
    return made


def wrapped(how=LoRAConfig(r=3), seed=0):  # noqa: B008 - frozen
    made = model(seed)
    lora.add_adapter(made, how, seed=1)
    return made


KINDS = [
    LoRAConfig(r=3),
    LoRAConfig(r=2, lora_alpha=3.0, use_rslora=True),
    LoRAConfig(r=3, use_dora=True),
    LoRAConfig(r=1, lora_alpha=4.0, use_dora=True, target_modules=("blocks.1.attention.*", "*.up")),
]


@pytest.mark.parametrize("how", KINDS, ids=str)
@torch.no_grad()
def test_a_fresh_detour_changes_nothing(how):
    assert torch.allclose(wrapped(how)(IDS), model()(IDS), atol=1e-5)


@pytest.mark.parametrize("how", KINDS, ids=str)
@torch.no_grad()
def test_merged_equals_unmerged_and_unmerging_restores_every_bit(how):
    made = stir(wrapped(how))
    apart, plain = made(IDS), model()(IDS)
    assert (apart - plain).abs().max() > 0.05
    lora.merge(made)
    assert torch.allclose(made(IDS), apart, atol=1e-5)
    lora.merge(made)  # a second time changes nothing
    assert torch.allclose(made(IDS), apart, atol=1e-5)
    lora.unmerge(made)
    assert made(IDS).equal(apart)
    lora.unload(made)
    assert made(IDS).equal(plain)
    assert made.state_dict().keys() == model().state_dict().keys()


@torch.no_grad()
def test_a_baked_model_is_a_plain_model():
    made = stir(wrapped())
    apart = made(IDS)
    lora.merge_and_unload(made)
    assert made.state_dict().keys() == model().state_dict().keys()
    assert torch.allclose(made(IDS), apart, atol=1e-5)


@torch.no_grad()
def test_scaling_is_as_the_papers_say():
    made = wrapped(LoRAConfig(r=4, lora_alpha=6.0))
    stabilized = wrapped(LoRAConfig(r=4, lora_alpha=6.0, use_rslora=True))
    for how, model_ in ((1.5, made), (3.0, stabilized)):
        detour = next(iter(lora.adapter_layers(model_, "adapter").values()))
        detour.lora_B.fill_(1.0)
        x = torch.ones(1, 16)
        layer = model_.blocks[0].attention.qkv
        expected = layer.base(x) + how * (detour.lora_A @ x[0]).sum()
        assert torch.allclose(layer(x), expected, atol=1e-5)


def test_only_detours_learn_and_each_gets_a_gradient():
    made = stir(wrapped(LoRAConfig(r=3, use_dora=True)))
    for name, parameter in made.named_parameters():
        parameter.requires_grad_("lora_" in name or "magnitude" in name)
    made(IDS).logsumexp(-1).sum().backward()
    for name, parameter in made.named_parameters():
        assert (parameter.grad is not None) == ("adapter_layers" in name), name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


def test_the_gradient_of_dora_takes_row_lengths_for_constants():
    """By hand, with the lengths held fixed: m / |W + sBA| is then one number a row."""
    made = stir(wrapped(LoRAConfig(r=3, use_dora=True, target_modules=("blocks.0.attention.qkv",))))
    layer = made.blocks[0].attention.qkv
    detour, x = layer.adapter_layers["adapter"], torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
    layer(x).square().sum().backward()
    B = detour.lora_B.detach().clone().requires_grad_()
    W = layer.base.weight.detach()
    lengths = torch.linalg.vector_norm(W + detour.scale * B.detach() @ detour.lora_A.detach(), dim=1)
    turned = (detour.magnitude.detach() / lengths)[:, None] * (W + detour.scale * B @ detour.lora_A.detach())
    (x @ turned.T + layer.base.bias.detach()).square().sum().backward()
    assert torch.allclose(detour.lora_B.grad, B.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_adapters_stack_with_shares_and_are_switched():
    made = model()
    for name, seed in (("a", 1), ("b", 2)):
        lora.add_adapter(made, LoRAConfig(r=2), seed, name)
        stir(made, name, seed)
    assert lora.adapters(made) == {"a": 1.0, "b": 1.0}
    weight = made.blocks[1].feedforward.up.base.weight.clone()
    delta = {n: lora.adapter_layers(made, n)["blocks.1.feedforward.up"].delta(weight) for n in ("a", "b")}
    both = made(IDS)
    lora.set_adapters(made, {"a": 1.0, "b": 0.5})
    mixed = made(IDS)
    lora.merge(made)
    assert torch.allclose(made.blocks[1].feedforward.up.base.weight, weight + delta["a"] + 0.5 * delta["b"], atol=1e-6)
    assert torch.allclose(made(IDS), mixed, atol=1e-5)
    lora.set_adapters(made, {"a": 1.0})  # unmerges by itself
    alone = model()
    lora.add_adapter(alone, LoRAConfig(r=2), 1, "a")
    stir(alone, "a", 1)
    assert torch.allclose(made(IDS), alone(IDS), atol=1e-6)
    lora.set_adapters(made, {})
    assert made(IDS).equal(model()(IDS))
    assert not torch.allclose(both, mixed, atol=1e-3)


def test_dropout_is_of_the_detour_alone():
    made = stir(wrapped(LoRAConfig(r=3, lora_dropout=0.5))).train()
    layer = made.blocks[0].attention.qkv
    x = torch.ones(4, 16)
    assert not layer(x).equal(layer(x))
    layer.eval()
    assert layer(x).equal(layer(x))
    lora.set_adapters(made, {})
    assert layer.train()(x).equal(layer.base(x))


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"'blocks\.9.*' names no linear layer"):
        lora.add_adapter(model(), LoRAConfig(target_modules=("blocks.9*",)), 0)
    made = wrapped()
    with pytest.raises(ModelError, match="has an adapter 'adapter' already"):
        lora.add_adapter(made, LoRAConfig(), 0)
    with pytest.raises(ModelError, match="has no adapter 'other'"):
        lora.set_adapters(made, {"other": 1.0})


@torch.no_grad()
def test_matrices_in_bfloat16_compute_in_the_type_of_their_input():
    made, rounded = model(), model()
    for block in rounded.blocks:
        for name, parameter in block.named_parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter.bfloat16().float())
            assert name
    bf16.to_bf16(made)
    kinds = {n: p.dtype for n, p in made.named_parameters()}
    assert {n for n, kind in kinds.items() if kind == torch.bfloat16} == {
        n for n, p in model().named_parameters() if n.startswith("blocks") and p.ndim == 2
    }
    assert made(IDS).equal(rounded(IDS))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(made(IDS).float(), rounded(IDS).float(), atol=1e-5)
    lora.add_adapter(made, LoRAConfig(r=2), 1)
    stir(made)
    lora.add_adapter(rounded, LoRAConfig(r=2), 1)
    stir(rounded)
    assert torch.allclose(made(IDS), rounded(IDS), atol=1e-6)
