"""Models for decoding that need no training: one that plays a given tune, one with lively random weights."""

from __future__ import annotations

import torch

from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.kv_cache import KVCache


class Tune:
    """A stand-in for a model: whatever it reads, the next token is the next of its tune.

    Rows play one tune each, the last one for all that have none. Its cache holds nothing but the number of the
    tune, so that a row may leave and the others go on with theirs.
    """

    def __init__(self, *tunes, vocab_size=257, context_length=64):
        self.config = GPTConfig(vocab_size=vocab_size, context_length=context_length, layers=1, heads=1, embed_dim=1)
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.tunes = tunes
        self.played = 0

    def eval(self):
        return self

    def new_cache(self, rows=1, capacity=None):
        return KVCache(self.config, rows, capacity)

    def hidden(self, tokens, cache):
        cache.require_room(tokens.shape[1])
        layer = cache.layers[0]
        if not self.played and not cache.length:
            layer.keys[: len(tokens), 0, 0, 0] = torch.arange(len(tokens))
        cache.advance(tokens.shape[1])
        return layer.keys[: len(tokens), :, 0].expand(-1, tokens.shape[1], -1)

    def unembed(self, hidden):
        logits = torch.full((len(hidden), self.config.vocab_size), -1000.0)
        for place, number in enumerate(hidden[:, 0].int().tolist()):
            tune = self.tunes[min(number, len(self.tunes) - 1)]
            logits[place, tune[min(self.played, len(tune) - 1)]] = 1000.0
        self.played += 1
        return logits

    def next_logits(self, tokens, cache):
        return self.unembed(self.hidden(tokens, cache)[:, -1])


def lively(seed=0, **shape):
    """A small model whose scores differ enough for sampling to have something to choose from."""
    values = {"vocab_size": 257, "context_length": 24, "layers": 2, "heads": 2, "embed_dim": 16, **shape}
    model = GPT(GPTConfig(**values), seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model


class NeverEnds:
    """What beam search asks whether a text has ended."""

    finish_reason = None

    def after(self, token):
        return self
