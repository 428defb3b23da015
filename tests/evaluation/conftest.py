"""A small model with lively random weights, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.train import train_bpe

# On a busy machine a single example may take long; that is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def lively_model(seed=0, **shape):
    """Scores that differ, so that a wrong one is seen."""
    values = {"vocab_size": 257, "context_length": 16, "layers": 2, "heads": 2, "embed_dim": 16, **shape}
    model = GPT(GPTConfig(**values), seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model


@pytest.fixture(scope="session")
def lively():
    """Makes such models: `lively(seed, context_length=...)`."""
    return lively_model


@pytest.fixture(scope="session")
def model():
    return lively_model()


@pytest.fixture(scope="session")
def byte_tokenizer():
    """One token for each byte, and the end of text."""
    return train_bpe([], 257)
