"""A tiny run that trains in a second."""

from __future__ import annotations

import random

import pytest

from handloom.training.config import TrainConfig


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """Forty documents of words that follow each other by rule, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("corpus")
    text = "the loom weaves a thread of blue and red over under until the cloth is done"
    words = text.split()  # one list for all documents
    for i in range(40):
        rng = random.Random(i)
        start, count = rng.randrange(len(words)), rng.randrange(60, 120)
        line = " ".join(words[(start + j * (1 + i % 3)) % len(words)] for j in range(count))
        (folder / f"{i:02}.txt").write_text(line + f"\nnumber {i}\n", encoding="utf-8")
    return folder


@pytest.fixture
def tiny(corpus_folder):
    """Settings of a tiny run; `tiny(steps=...)` changes some."""

    def make(**changes):
        settings = {
            "data": (str(corpus_folder),),
            "vocab_size": 300,
            "preset": "nano",
            "layers": 2,
            "heads": 2,
            "embed_dim": 16,
            "context_length": 16,
            "steps": 8,
            "batch_size": 4,
            "precision": "fp32",
            "threads": 1,
            "dropout": 0.1,
            "sample_every": 0,
            "eval_every": 4,
            "checkpoint_every": 4,
        }
        return TrainConfig(**{**settings, **changes})

    return make
