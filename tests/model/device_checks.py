"""A model on a device of another name: forward, loss, backward and decoding make every tensor there."""

from __future__ import annotations

import pytest
import torch

from devices import NAME, disguise, to_device
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.loss import next_token_loss, score_tokens, token_nll
from handloom.model.surgery import set_attention

CONFIG = GPTConfig(vocab_size=61, context_length=12, layers=2, heads=2, embed_dim=16)
IDS = torch.arange(20).view(2, 10)


def test_the_disguise_refuses_to_mix():
    with disguise() as device:
        there = torch.ones(3, device=device)
        assert there.device.type == NAME
        assert (there * 2 + torch.tensor(1.0)).sum().item() == 9.0
        with pytest.raises(RuntimeError, match="mixes"):
            there + torch.ones(3)
        assert (there.cpu() + torch.ones(3)).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("implementation", ["sdpa", "eager", None])
@pytest.mark.parametrize("loss", [next_token_loss, token_nll])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_are_those_of_the_cpu(implementation, loss, tied):
    def gradients(model, ids):
        segments = torch.zeros_like(ids)
        segments[:, 4:] = 1
        hidden = model.hidden(ids[:, :-1], segment_ids=segments[:, :-1])
        found = loss(hidden, model.lm_head, ids[:, 1:])
        (found[0] if isinstance(found, tuple) else found.sum()).backward()
        return {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}

    def made():
        model = GPT(GPTConfig(**{**CONFIG.to_dict(), "tie_embeddings": tied}))
        set_attention(model, implementation)
        return model

    expected = gradients(made(), IDS)
    with disguise() as device:
        found = gradients(to_device(made(), device), IDS.to(device))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


@torch.no_grad()
def test_scores_and_cached_decoding_are_those_of_the_cpu():
    model = GPT(CONFIG).eval()
    expected = score_tokens(model.hidden(IDS)[0, :-1], model.lm_head, IDS[0, 1:], 3)
    logits = model(IDS)
    with disguise() as device:
        to_device(model, device)
        assert model.device.type == NAME
        ids = IDS.to(device)
        found = score_tokens(model.hidden(ids)[0, :-1], model.lm_head, ids[0, 1:], 3)
        cache = model.new_cache(2)
        pieces = [model(piece, cache).cpu() for piece in (ids[:, :4], ids[:, 4:5], ids[:, 5:])]
        cache.reset_row(1)
        model(ids[:, :1], cache)  # rows of unequal lengths
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.cpu(), other)
    torch.testing.assert_close(torch.cat(pieces, dim=1), logits, atol=1e-5, rtol=1e-5)
