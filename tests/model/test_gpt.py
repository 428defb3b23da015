"""What must hold of a GPT whatever it has learned: causality, its beginning, and that it can learn at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from handloom.errors import ModelError
from handloom.model.config import GPTConfig, preset
from handloom.model.embedding import require_ids
from handloom.model.gpt import GPT
from handloom.model.loss import next_token_loss
from handloom.model.surgery import set_attention

CONFIG = GPTConfig(vocab_size=97, context_length=24, layers=3, heads=4, embed_dim=32)


@pytest.mark.parametrize("fused", [True, False])
def test_no_position_depends_on_a_later_token(fused):
    """The gradient of a position's logits by the embedding of every later token is exactly zero."""
    model = GPT(CONFIG, seed=0)
    set_attention(model, "sdpa" if fused else "eager")
    tokens = torch.arange(CONFIG.context_length)[None]
    seen = {}
    model.embedding.register_forward_hook(lambda _m, _i, out: seen.update(x=out.retain_grad() or out))
    logits = model(tokens)
    for t in range(CONFIG.context_length):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), seen["x"], retain_graph=True)
        size = gradient[0].abs().sum(-1)  # (T)
        assert (size[t + 1 :] == 0).all()
        assert (size[: t + 1] > 0).all()


def test_forward_is_unembedding_of_the_hidden_states():
    model = GPT(CONFIG)
    tokens = torch.randint(97, (2, 9))
    assert torch.equal(model(tokens), model.unembed(model.hidden(tokens)))


@pytest.mark.parametrize("config", [preset("micro"), preset("nano"), GPTConfig(layers=2)])
def test_the_first_loss_is_that_of_guessing(config):
    """An untrained model knows nothing: its loss is within 2% of ln V."""
    model = GPT(config, seed=0).eval()
    tokens = torch.randint(config.vocab_size, (2, 129), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss, count = next_token_loss(model.hidden(tokens[:, :-1]), model.lm_head, tokens[:, 1:])
    assert loss / count == pytest.approx(math.log(config.vocab_size), rel=0.02)


def test_one_batch_can_be_learned_by_heart():
    model = GPT(CONFIG, seed=0)
    tokens = torch.randint(97, (4, 25), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(200):
        loss, count = next_token_loss(model.hidden(tokens[:, :-1]), model.lm_head, tokens[:, 1:])
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
        if loss / count < 0.05:
            break
    assert loss / count < 0.05


def test_initial_weights_are_gpt2s():
    config = GPTConfig(vocab_size=1000, context_length=64, layers=8, heads=4, embed_dim=128)
    for name, parameter in GPT(config, seed=3).named_parameters():
        if parameter.ndim == 2:
            writes = name.endswith(("attention.out.weight", "feedforward.down.weight"))
            expected = 0.02 / math.sqrt(16) if writes else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
        else:
            assert parameter.unique().tolist() == [1.0 if name.endswith("norm.weight") else 0.0], name


def test_the_seed_decides_the_weights():
    a, b, c = (GPT(CONFIG, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["blocks.0.attention.qkv.weight"], c["blocks.0.attention.qkv.weight"])


@pytest.mark.parametrize("tokens", [torch.tensor([[0, 97]]), torch.tensor([[-1]]), torch.tensor([[0.5]])])
def test_ids_that_the_model_does_not_have_are_refused(tokens):
    with pytest.raises(ModelError, match="from 0 to 96"):
        require_ids(tokens.numpy(), CONFIG.vocab_size)
    with pytest.raises((IndexError, RuntimeError)):  # unchecked, they are never computed with in silence
        GPT(CONFIG)(tokens)


def test_ids_of_the_model_pass():
    for ids in ([0, 96], [], np.array([5], dtype=np.uint16)):
        require_ids(ids, CONFIG.vocab_size)


def test_a_tied_head_is_the_token_embedding():
    tied, untied = GPT(CONFIG), GPT(GPTConfig(**{**CONFIG.to_dict(), "tie_embeddings": False}))
    assert tied.lm_head.weight is tied.embedding.token_embedding.weight
    assert untied.lm_head.weight is not untied.embedding.token_embedding.weight


def test_dropout_acts_in_training_only():
    model = GPT(GPTConfig(**{**CONFIG.to_dict(), "dropout": 0.3}))
    tokens = torch.randint(97, (2, 9))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_dropout_stands_where_gpt2_has_it():
    """On the embeddings, on the attention weights, and on what each half of a block adds: 1 + 3 * layers."""
    model = GPT(GPTConfig(**{**CONFIG.to_dict(), "dropout": 0.3}))
    modules = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert modules == [0.3] * (1 + 3 * CONFIG.layers)
    assert [block.attention.core.dropout.p for block in model.blocks] == [0.3] * CONFIG.layers


@pytest.mark.parametrize("fused", [True, False])
def test_texts_in_one_row_are_read_as_if_each_stood_alone(fused):
    model = GPT(CONFIG, seed=0).eval()
    set_attention(model, "sdpa" if fused else "eager")
    generator = torch.Generator().manual_seed(0)
    lengths = ((5, 9, 3), (17,), (1, 1, 20))
    texts = [[torch.randint(97, (1, n), generator=generator) for n in row] for row in lengths]
    rows, segments = torch.zeros(3, 24, dtype=torch.long), torch.full((3, 24), -1)
    for at, row in enumerate(texts):
        rows[at, : sum(lengths[at])] = torch.cat(row, dim=1)[0]
        segments[at, : sum(lengths[at])] = torch.repeat_interleave(torch.arange(len(row)), torch.tensor(lengths[at]))
    together = model.hidden(rows, segment_ids=segments)  # (3, 24, C)
    for at, row in enumerate(texts):
        place = 0
        for text in row:
            alone = model.hidden(text)[0]  # (n, C)
            assert torch.allclose(together[at, place : place + len(alone)], alone, atol=1e-5)
            place += len(alone)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_model_may_be_read_in_two_parts(layer):
    model = GPT(CONFIG, seed=0)
    tokens = torch.randint(97, (2, 9))
    lower = model.hidden(tokens, stop_at_layer=layer)
    assert torch.equal(model.hidden(lower, start_at_layer=layer), model.hidden(tokens))


@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_of_checkpointed_blocks_are_equal_to_the_bit_and_less_is_kept(bf16):
    config = GPTConfig(vocab_size=50, context_length=16, layers=3, heads=2, embed_dim=8, dropout=0.2)
    tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(1))
    segments = (torch.arange(16) > 6).long().expand(2, 16)
    found = []
    for use in (False, True):
        model = GPT(config).train()
        for block in model.blocks:
            block.checkpointing = use
        kept = []
        torch.manual_seed(5)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t),
        ):
            loss = model.hidden(tokens, segment_ids=segments).float().square().sum()
        loss.backward()
        found.append((sum(kept), [p.grad for p in model.parameters()]))
    (plain, expected), (less, gradients) = found
    assert all(torch.equal(one, other) for one, other in zip(expected, gradients, strict=True))
    assert less < plain / 3
