"""Small models whose every number is random, so that nothing about them can be wrong unnoticed."""

from __future__ import annotations

import torch

from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. "
SHAPE = GPTConfig(vocab_size=300, context_length=16, layers=2, heads=2, embed_dim=8)
"""Ten ids more than the vocabulary of `TEXT` has in these tests."""


def random_model(config: GPTConfig = SHAPE, seed: int = 0, deviation: float = 0.3) -> GPT:
    model, generator = GPT(config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, deviation, generator=generator)
    return model
