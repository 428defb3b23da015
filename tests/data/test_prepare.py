"""From text to shards: right tokens, once, whole or not at all, whoever else is at it."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from handloom import locks
from handloom.data import split, tokenized
from handloom.data.corpus import open_corpus
from handloom.data.tokenized import prepare, training_documents
from handloom.errors import ConfigError, DataError
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.train import train_bpe

STORIES = {f"{n}.txt": f"Story {n}. " + "And so it went, \u00e9t\u00e9 after \u00e9t\u00e9. " * n for n in range(1, 60)}


def expected_tokens(tokenizer, texts):
    return [token for text in texts for token in (*tokenizer.encode(text), tokenizer.eos_token_id)]


def cache_content():
    root = tokenized.cache_folder() / "data"
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def tokenizing():
    return [thread.name for thread in threading.enumerate() if "tokenize" in thread.name]


def test_tokens_are_those_of_the_documents_each_with_its_end(write, gpt2):
    write(**STORIES)
    data = prepare(["."], gpt2)
    sides = {side: getattr(data, side) for side in ("train", "validation")}
    assert sorted(name for side in sides.values() for name in side.names) == sorted(STORIES)
    for side in sides.values():
        texts = [STORIES[name] for name in side.names]
        assert side.tokens.tolist() == expected_tokens(gpt2, texts)
        assert side.n_bytes == sum(len(text.encode()) for text in texts)
        assert side.n_documents == len(texts) > 0
        assert side.tokens[side.ends - 1].tolist() == [gpt2.eos_token_id] * len(texts)
    assert data.report.split == "documents"
    assert data.report.train_documents + data.report.validation_documents == data.report.documents == len(STORIES)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_give_the_same_tokens(write, gpt2, workers, monkeypatch):
    monkeypatch.setattr(split, "PIECE", 1_000)  # many batches, so that threads race
    write(**STORIES)
    data = prepare(["."], gpt2, workers=workers)
    assert data.report.workers == workers
    assert data.train.tokens.tolist() == expected_tokens(gpt2, [STORIES[name] for name in data.train.names])


def test_threads_take_a_trained_tokenizer(write):
    write(**STORIES)
    tokenizer = train_bpe(training_documents(["."]), 300)
    data = prepare(["."], tokenizer, workers=2)
    assert data.train.tokens.tolist() == expected_tokens(tokenizer, [STORIES[name] for name in data.train.names])


def test_a_long_document_is_tokenized_in_pieces_with_the_tokens_of_the_whole(write, gpt2):
    text = "".join(f"Line {n}: a word or two,   then three.\n" for n in range(30_000))  # over 1 MB
    write(**{"play.txt": text})
    data = prepare("play.txt", gpt2)
    assert data.report.split == "tail"
    tail = data.validation.n_bytes
    head = text[: len(text) - tail]
    assert head.endswith("\n")
    assert data.train.tokens.tolist() == expected_tokens(gpt2, [head])
    assert data.validation.tokens.tolist() == expected_tokens(gpt2, [text[len(text) - tail :]])


def test_the_same_text_is_not_prepared_twice(write, gpt2):
    write(**STORIES)
    first = prepare(["."], gpt2)
    again = prepare(["."], gpt2)
    assert (first.report.reused, again.report.reused) == (False, True)
    assert first.key == again.key
    assert again.train.tokens.tolist() == first.train.tokens.tolist()
    reference = prepare(["."], load_tokenizer("gpt2", fast=False))
    assert reference.report.reused  # the same ids, so the same shards


def test_whatever_changes_tokens_changes_the_key(write, gpt2):
    write(**STORIES)
    keys = {
        prepare(["."], gpt2).key,
        prepare(["."], gpt2, validation_fraction=0.2).key,
        prepare(["."], gpt2, split="tail").key,
        prepare(["."], train_bpe(STORIES.values(), 300)).key,
        prepare(["1.txt", "2.txt"], gpt2).key,
        prepare(["2.txt", "1.txt"], gpt2).key,
    }
    write(**{"1.txt": "Another story."})
    assert len({*keys, prepare(["."], gpt2).key}) == 7


def test_training_documents_are_those_that_prepare_trains_on(write, gpt2):
    write(**STORIES)
    corpus = open_corpus(["."])
    texts = list(training_documents(corpus, validation_fraction=0.3))
    data = prepare(corpus, gpt2, validation_fraction=0.3)
    assert texts == [STORIES[name] for name in data.train.names]
    assert data.validation.n_documents > 0


def test_nothing_held_out_when_asked_so(write, gpt2):
    write(**STORIES)
    data = prepare(["."], gpt2, validation_fraction=0)
    assert (data.report.split, data.validation.n_tokens, data.train.n_documents) == ("none", 0, len(STORIES))
    assert data.validation.tokens.shape == (0,)


def test_progress_reaches_the_end(write, gpt2):
    write(**STORIES)
    told = []
    data = prepare(["."], gpt2, on_progress=lambda done, total: told.append((done, total)))
    total = data.train.n_bytes + data.validation.n_bytes
    assert told[-1] == (total, total)
    assert told == sorted(told)


def test_a_torn_shard_in_the_cache_is_refused_by_name(write, gpt2):
    write(**STORIES)
    shard = prepare(["."], gpt2).folder / "validation.tokens"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"validation\.tokens: a damaged token shard"):
        prepare(["."], gpt2)
    shutil.rmtree(shard.parent)  # what the remedy says
    assert not prepare(["."], gpt2).report.reused


def test_a_cache_that_cannot_be_written(write, gpt2, tmp_path, monkeypatch):
    write(**STORIES)
    monkeypatch.setenv("HANDLOOM_CACHE", str(tmp_path / "1.txt"))  # a file where a folder should be
    with pytest.raises(DataError, match=r"Prepared data cannot be written to .*HANDLOOM_CACHE"):
        prepare(["."], gpt2)


def test_too_little_space_is_known_before(write, gpt2, monkeypatch):
    write(**STORIES)
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(DataError, match=r"MB as tokens, but .* has 0 MB free"):
        prepare(["."], gpt2)
    assert cache_content() == []


def test_a_disk_that_fills_up_leaves_nothing(write, gpt2, monkeypatch):
    write(**STORIES)

    def full(self, block):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenized.ShardWriter, "_write", full)
    with pytest.raises(DataError, match=r"No space left on device.*Free some space"):
        prepare(["."], gpt2)
    assert cache_content() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_disk_that_is_full_only_when_the_file_is_closed(write, gpt2, monkeypatch):
    """The system may report a full disk as late as the last flush."""
    write(**STORIES)
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", *rest, **more: real(
        Path("/dev/full") if mode == "wb" else self, mode, *rest, **more))  # fmt: skip
    with pytest.raises(DataError, match="No space left on device"):
        prepare(["."], gpt2)
    assert cache_content() == []


def test_ctrl_c_leaves_nothing_neither_files_nor_threads(write, gpt2):
    write(**STORIES)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(["."], gpt2, on_progress=stop, workers=2)
    assert cache_content() == []
    assert not tokenizing()


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_makes_is_not(write, gpt2):
    """By age, a preparation of more than a day was taken from under its process."""
    write(**STORIES)
    root = tokenized.cache_folder() / "data"
    for name in ("x.partial", "y.partial"):
        (root / name).mkdir(parents=True)
        then = (root / name).stat().st_mtime - 2 * 86_400
        os.utime(root / name, (then, then))
    with locks.hold(locks.lock_beside(root / "y"), "y"):
        data = prepare(["."], gpt2)
        assert sorted(path.name for path in root.iterdir() if path.is_dir()) == sorted([data.key, "y.partial"])


def test_of_two_at_the_same_time_the_second_waits_and_takes_what_the_first_made(write, gpt2, monkeypatch):
    write(**STORIES)
    begun, waits, results, told = threading.Event(), threading.Event(), [], []
    monkeypatch.setattr("handloom.console.note", lambda text: (told.append(text), waits.set()))

    def wait(done, total):
        begun.set()
        assert waits.wait(timeout=60)

    first = threading.Thread(target=lambda: results.append(prepare(["."], gpt2, on_progress=wait)))
    first.start()
    assert begun.wait(timeout=60)
    second = prepare(["."], gpt2)
    first.join()
    assert f"is in use by process {os.getpid()} on" in told[0]
    assert (results[0].report.reused, second.report.reused) == (False, True)
    assert (results[0].train.tokens == second.train.tokens).all()
    assert cache_content() == [second.key]


def test_an_error_in_a_thread_ends_them_all_and_leaves_nothing(write, gpt2, monkeypatch):
    write(**STORIES)

    def encode(self, text):
        raise DataError("Broken.", "Mend it.")

    monkeypatch.setattr(type(gpt2), "encode", encode)
    with pytest.raises(DataError, match="Broken"):
        prepare(["."], gpt2, workers=2)
    assert cache_content() == []
    assert not tokenizing()


def test_workers_below_one(gpt2):
    with pytest.raises(ConfigError, match="workers is 0"):
        prepare("python-docs", gpt2, workers=0)


def test_there_are_as_many_threads_as_cores(write, gpt2, monkeypatch):
    write(**STORIES)
    monkeypatch.setattr(tokenized, "available_cores", lambda: 5)
    assert prepare(["."], gpt2).report.workers == 5


def test_python_docs_prepare_as_promised(gpt2):
    data = prepare("python-docs", gpt2)
    assert data.report.split == "documents"
    assert 0.05 < data.validation.n_bytes / (data.train.n_bytes + data.validation.n_bytes) < 0.2
    assert np.asarray(data.train.tokens).max() == gpt2.eos_token_id
