"""Mistakes of Python callers: a value of another type is refused by name, and torch is left as it was found."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from handloom import errors
from handloom.data.corpus import open_corpus
from handloom.errors import ArgumentError, ConfigError, HandloomError
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.loading import load, named_adapters
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.gpt2 import TiktokenTokenizer
from handloom.tokenizer.train import train_bpe
from handloom.training import loop, run
from handloom.training.config import TrainConfig

BY_HAND = train_bpe(["hello hello"], 260)
TOKENIZERS = [BY_HAND, TiktokenTokenizer(BY_HAND)]


@pytest.fixture
def lm():
    return LanguageModel(GPT(GPTConfig(260, 8, 1, 1, 8, label_names=("a", "b"))), BY_HAND)


@pytest.fixture
def tiny(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the loom weaves thread {i}" for i in range(100)), encoding="utf-8")

    def make(**changes):
        small = {
            "vocab_size": 300,
            "layers": 1,
            "heads": 1,
            "embed_dim": 8,
            "context_length": 8,
            "steps": 2,
            "batch_size": 2,
        }
        return TrainConfig(data=(str(text),), threads=1, precision="fp32", sample_every=0, **small | changes)

    return make


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["by hand", "tiktoken"])
def test_texts_and_ids_of_other_types(tokenizer, tmp_path):
    for value in (b"hello", None, 5, ["hello"]):
        with pytest.raises(ArgumentError, match=rf"is .*of type {type(value).__name__}\. Pass a str"):
            tokenizer.encode(value)
    for value in ("hello", b"hello", None, 5):
        with pytest.raises(ArgumentError, match="several texts"):
            tokenizer.encode_batch(value)
    for value in ([b"hello"], [None]):
        with pytest.raises(ArgumentError):
            tokenizer.encode_batch(value)
    for value in ("hello", None, [1.5], ["h"], 5):
        with pytest.raises(ArgumentError):
            tokenizer.decode(value)
    assert tokenizer.decode(np.array([257, 258])) == tokenizer.decode([257, 258]) == "hello"
    assert tokenizer.encode(np.str_("hello")) == [257, 258]
    tokenizer.save(str(tmp_path / "saved"))
    assert load_tokenizer(str(tmp_path / "saved").encode()).fingerprint == tokenizer.fingerprint


def test_a_vocabulary_is_learned_from_texts_not_from_the_characters_of_one():
    for value in ("hello hello", b"hello", None, 5, [b"hello"]):
        with pytest.raises(ArgumentError):
            train_bpe(value, 260)
    for size in ("260", None, 260.0):
        with pytest.raises(ArgumentError, match="size of the vocabulary"):
            train_bpe(["hello hello"], size)


def test_a_model_asked_with_other_types(lm):
    for value in (b"hello", 5, {"role": "user"}, ["hello"]):
        with pytest.raises(HandloomError):
            lm.generate(value, max_new_tokens=1)
    for value in ("hello", b"hello", 5):
        with pytest.raises(ArgumentError, match="several texts"):
            lm.complete_batch(value, GenerationConfig(max_new_tokens=1))
    with pytest.raises(ArgumentError, match="The config is 5"):
        lm.complete("hello", 5)
    for value in (["hello", "hello"], b"hello", None, 5):
        with pytest.raises(ArgumentError, match=rf"The text is .*of type {type(value).__name__}"):
            lm.classify(value)
    assert lm.classify("hello").label in ("a", "b")


def test_paths_of_other_types_make_no_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = set(tmp_path.iterdir())
    for value in (None, 5, ["run"]):
        for use in (load, load_tokenizer, run.resume, lambda path: run.begin(path, tiny())):
            with pytest.raises(ArgumentError, match=r"Pass a str or a Path|Pass a path"):
                use(value)
    for value in (None, 5, [None], b"text.txt"):
        with pytest.raises(ArgumentError):
            open_corpus(value)
    with pytest.raises(ArgumentError):
        named_adapters(5)
    assert set(tmp_path.iterdir()) == there


def test_runs_with_text_for_a_path_and_settings_of_other_types(tiny, tmp_path):
    folder = str(tmp_path / "run")
    for value in (None, {"steps": 2}, "config.toml"):
        with pytest.raises(ArgumentError, match="a TrainConfig or a FinetuneConfig"):
            run.begin(folder, value)
    with pytest.raises(ArgumentError, match="reporter"):
        run.begin(folder, tiny(), print)
    assert not Path(folder).exists()
    assert run.begin(folder, tiny(), stop_after=1)["steps"] == 1
    for value in ([("steps", 3)], "steps"):
        with pytest.raises(ArgumentError, match="changes"):
            run.resume(folder, changes=value)
    with pytest.raises(ConfigError, match=r"no setting 'stesp'.*Did you mean 'steps'"):
        run.resume(folder, changes={"stesp": 3})
    with pytest.raises(ConfigError, match="no setting 5"):
        run.resume(folder, changes={5: 3})
    with pytest.raises(ArgumentError, match="stop_after"):
        run.resume(folder, stop_after="3")
    assert run.resume(folder, changes={"steps": 3})["steps"] == 3


def state():
    return {
        "generator": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
    }


@pytest.mark.parametrize("end", ["finished", "refused", "failed", "stopped"])
def test_training_leaves_what_is_global_as_it_found_it(tiny, tmp_path, monkeypatch, end):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(1234)
    try:
        before = state()
        config = tiny(dropout=0.1)
        if end == "refused":
            config = tiny(tokenizer=str(tmp_path / "missing"))
        error = {"failed": errors.DataError("It", "failed."), "stopped": KeyboardInterrupt()}.get(end)
        if error:
            monkeypatch.setattr(loop.Trainer, "_clip_gradients", lambda *_: (_ for _ in ()).throw(error))
        try:
            run.begin(tmp_path / "run", config)
            assert end == "finished"
            run.resume(tmp_path / "run", changes={"steps": 3})
        except (HandloomError, KeyboardInterrupt):
            assert end != "finished"
        assert state() == before
    finally:
        torch.set_num_threads(threads)


def test_the_state_is_one_that_training_changes(tiny, tmp_path, monkeypatch):
    """So that the test above can fail."""
    seen = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    clip = loop.Trainer._clip_gradients
    monkeypatch.setattr(loop.Trainer, "_clip_gradients", lambda self, loss: (seen.append(state()), clip(self, loss))[1])
    before = state()
    run.begin(tmp_path / "run", tiny())
    torch.set_num_threads(threads)
    for name in ("generator", "threads", "signals"):
        assert seen[0][name] != before[name], name
