"""Models for decoding: one with lively random weights, one that plays a given tune, and a trained run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from stand_ins import Tune, lively

from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.train import train_bpe

# On a busy machine a single example may take long; that is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def byte_tokenizer():
    """One token for each byte, and the end of text: characters beyond ASCII come in parts."""
    return train_bpe([], 257)


@pytest.fixture
def play(byte_tokenizer):
    """`play(text, ...)`: a LanguageModel that will write these texts (or ids), one for each row."""

    def make(*texts, **shape):
        encode = byte_tokenizer.encode
        tunes = [encode(text) if isinstance(text, str) else list(text) for text in texts]
        return LanguageModel(Tune(*tunes, **shape), byte_tokenizer)

    return make


@pytest.fixture(scope="session")
def model():
    return lively()


@pytest.fixture(scope="session")
def lm(model, byte_tokenizer):
    return LanguageModel(model, byte_tokenizer)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A run of four steps, with two checkpoints. Not to be changed: copy it first."""
    from handloom.training import run
    from handloom.training.config import TrainConfig

    folder = tmp_path_factory.mktemp("trained")
    text = folder / "fox.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    config = TrainConfig(
        data=(str(text),),
        vocab_size=280,
        context_length=16,
        layers=1,
        heads=2,
        embed_dim=16,
        batch_size=4,
        steps=4,
        checkpoint_every=2,
        eval_every=4,
        sample_every=0,
        threads=1,
        precision="fp32",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDLOOM_CACHE", str(folder / "cache"))
        run.begin(folder / "run", config)
    return folder / "run"
