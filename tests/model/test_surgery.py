"""Edits of a built model: which layers it has, what replaces them, and attention by either path."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.surgery import linear_layers, replace, set_attention, set_dropout, untie_embeddings

CONFIG = GPTConfig(vocab_size=97, context_length=24, layers=2, heads=4, embed_dim=32)
IDS = torch.arange(48).view(2, 24)


def test_linear_layers_are_those_of_the_blocks_and_what_replaced_one():
    model = GPT(CONFIG)
    parts = ("attention.qkv", "attention.out", "feedforward.up", "feedforward.down")
    paths = [f"blocks.{i}.{part}" for i in range(2) for part in parts]
    assert [path for path, _ in linear_layers(model)] == paths

    class Packed(nn.Module):
        in_features = 32

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    expected = model(IDS)
    packed = Packed(model.get_submodule(paths[0]))
    replace(model, paths[0], packed)
    assert dict(linear_layers(model))[paths[0]] is packed
    assert [path for path, _ in linear_layers(model)] == paths
    assert torch.equal(model(IDS), expected)


def test_the_head_can_be_replaced_too():
    model = GPT(CONFIG)
    replace(model, "lm_head", nn.Linear(32, 7))
    assert model(IDS).shape == (2, 24, 7)


def test_untying_keeps_the_logits_and_separates_the_weights():
    model = GPT(CONFIG)
    before = model(IDS)
    assert not any(name.startswith("lm_head") for name in model.state_dict())
    untie_embeddings(model)
    assert torch.equal(model(IDS), before)
    assert not model.config.tie_embeddings
    assert "lm_head.weight" in model.state_dict()
    assert model.lm_head.weight is not model.embedding.token_embedding.weight


def test_a_copy_of_a_tied_model_is_tied_to_its_own_embedding():
    model = GPT(CONFIG)
    other = copy.deepcopy(model)
    assert other.lm_head.weight is other.embedding.token_embedding.weight
    assert other.lm_head.weight is not model.lm_head.weight


@pytest.mark.parametrize("name", ["sdpa", "eager", None])
def test_attention_is_computed_as_was_chosen(name):
    model = GPT(CONFIG).eval()
    expected = model(IDS)
    set_dropout(model, 0.25)
    set_attention(model, name)
    assert all(block.attention.core.implementation == name for block in model.blocks)
    assert all(block.attention.core.dropout.p == 0.25 for block in model.blocks)
    torch.testing.assert_close(model(IDS), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_device_and_dtype_are_those_of_the_weights():
    model = GPT(CONFIG).to(torch.bfloat16)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.bfloat16)
    cache = model.new_cache(2, 10)
    assert cache.layers[0].keys.dtype == torch.bfloat16
    assert cache.nbytes == 2 * 2 * CONFIG.layers * 2 * 10 * 32
    with torch.device("meta"):
        assert GPT(CONFIG).device.type == "meta"
