"""`sdpa` and `eager` attention, cached and uncached, batched and single: the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from handloom.errors import ModelError
from handloom.model.attention import causal_mask, eager_attention, sdpa_attention
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.kv_cache import KVCache
from handloom.model.surgery import set_attention

SHAPES = [
    GPTConfig(vocab_size=61, context_length=32, layers=3, heads=4, embed_dim=32),
    GPTConfig(vocab_size=61, context_length=7, layers=2, heads=1, embed_dim=20),
    GPTConfig(vocab_size=61, context_length=16, layers=1, heads=25, embed_dim=50, ffn_dim=33, tie_embeddings=False),
]


def model_and_tokens(config, batch=3):
    model = GPT(config, seed=1).eval()
    with torch.no_grad():  # initial weights make attention nearly uniform; sharpen it
        for block in model.blocks:
            block.attention.qkv.weight.mul_(20)
    tokens = torch.randint(
        config.vocab_size, (batch, config.context_length), generator=torch.Generator().manual_seed(2)
    )
    return model, tokens


@pytest.mark.parametrize("config", SHAPES)
def test_sdpa_attention_equals_the_explicit_softmax(config):
    model, tokens = model_and_tokens(config)
    fused = model(tokens)
    set_attention(model, "eager")
    torch.testing.assert_close(fused, model(tokens), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("config", SHAPES)
def test_fused_gradients_equal_the_explicit_ones(config):
    model, tokens = model_and_tokens(config)
    found = []
    for fused in (True, False):
        set_attention(model, "sdpa" if fused else "eager")
        model.zero_grad()
        model(tokens).logsumexp(-1).sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("T", "S"), [(1, 1), (5, 5), (1, 9), (4, 9)])
def test_the_paths_agree_for_every_relation_of_queries_to_keys(T, S):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, T, 8, generator=generator)
    k, v = (torch.randn(2, 3, S, 8, generator=generator) for _ in range(2))
    torch.testing.assert_close(eager_attention(q, k, v), sdpa_attention(q, k, v), atol=1e-6, rtol=1e-5)


def test_the_mask_ends_at_the_last_position():
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]


def test_training_uses_the_flash_kernel():
    q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where only the slow kernel would do
        sdpa_attention(q, k, v)
        sdpa_attention(q[:, :, -1:], k, v)


@pytest.mark.parametrize("config", SHAPES)
def test_cached_logits_equal_uncached_at_every_length(config):
    model, tokens = model_and_tokens(config)
    cache = KVCache(config, batch=len(tokens))
    whole = model(tokens)
    for t in range(config.context_length):
        step = model(tokens[:, t : t + 1], cache)
        torch.testing.assert_close(step[:, 0], whole[:, t], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_reading_a_prompt_in_two_parts_changes_nothing(cut):
    config = SHAPES[1]
    model, tokens = model_and_tokens(config)
    cache = KVCache(config, batch=len(tokens))
    parts = [model(tokens[:, :cut], cache), model(tokens[:, cut:], cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("config", SHAPES)
def test_a_batch_equals_its_rows(config):
    model, tokens = model_and_tokens(config, batch=5)
    together = model(tokens)
    for row, one in zip(tokens, together, strict=True):
        torch.testing.assert_close(model(row[None])[0], one, atol=2e-5, rtol=1e-5)


def test_a_cache_can_forget_its_end():
    config = SHAPES[0]
    model, tokens = model_and_tokens(config)
    cache = KVCache(config, batch=len(tokens))
    model(tokens, cache)
    cache.crop(10)
    again = model(tokens[:, 10:12], cache)
    torch.testing.assert_close(again, model(tokens)[:, 10:12], atol=2e-5, rtol=1e-5)


def test_a_full_cache_and_a_long_text_are_refused():
    config = SHAPES[1]
    model, tokens = model_and_tokens(config)
    cache = KVCache(config, batch=len(tokens), capacity=4)
    with pytest.raises(ModelError, match="cannot take 5 more"):
        model(tokens[:, :5], cache)
    with pytest.raises(ModelError, match="context of 7"):
        model(torch.zeros(1, 8, dtype=torch.int64))
    with pytest.raises(ModelError, match=r"shape \(B, T\)"):
        model(torch.zeros(8, dtype=torch.int64))
