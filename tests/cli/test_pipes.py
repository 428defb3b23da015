"""What can be read once is read once, or refused as what it is: <(COMMAND), /dev/stdin, FIFOs, devices."""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from bad_inputs import FOX, TINY

from handloom.cli.main import app
from handloom.data.corpus import open_corpus
from handloom.data.tokenized import prepare
from handloom.errors import DataError
from handloom.evaluation.texts import TrainingText
from handloom.tokenizer import load_tokenizer
from handloom.training import run
from handloom.training.config import TrainConfig

TEXT = FOX * 60
SETTINGS = {
    "vocab_size": 280, "context_length": 16, "layers": 1, "heads": 2, "embed_dim": 16, "batch_size": 4,
    "sample_every": 0,
    "threads": 1, "precision": "fp32", "steps": 2,
}  # fmt: skip


@contextmanager
def substituted(text):
    """A path as that of a shell's <(COMMAND): a pipe into which the text comes once."""
    read, write = os.pipe()

    def fill():
        with open(write, "wb") as file:
            file.write(text.encode())

    writer = threading.Thread(target=fill)
    writer.start()
    try:
        yield f"/dev/fd/{read}"
    finally:
        os.close(read)
        writer.join()


def documents(source):
    corpus = open_corpus([source])
    first, second = ([document.text() for document in corpus.documents()] for _ in range(2))
    assert first == second
    return first


def test_a_pipe_is_read_once_and_walked_often(tmp_path):
    with substituted(TEXT) as path:
        assert documents(path) == [TEXT]
    fifo = tmp_path / "named"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_text(TEXT))
    writer.start()
    assert documents(str(fifo)) == [TEXT]
    writer.join()


def test_a_file_behind_dev_stdin_is_a_file(tmp_path):
    (tmp_path / "t.txt").write_text(TEXT)
    with open(tmp_path / "t.txt") as file:
        assert documents(f"/dev/fd/{file.fileno()}") == [TEXT]


@pytest.mark.parametrize(("source", "told"), [("/dev/null", "a device, not text"), ("/dev/zero", "a device, not text")])
def test_devices_are_refused_as_what_they_are(source, told):
    with pytest.raises(DataError, match=told):
        open_corpus([source])


def test_an_empty_pipe_is_refused():
    with substituted("") as path, pytest.raises(DataError, match=f"{path} is empty"):
        open_corpus([path])


def test_a_pipe_and_a_file_give_the_same_tokens(tmp_path):
    (tmp_path / "t.txt").write_text(TEXT)
    gpt2 = load_tokenizer("gpt2")
    with substituted(TEXT) as path:
        assert prepare([path], gpt2).key == prepare([str(tmp_path / "t.txt")], gpt2).key


@pytest.fixture
def piped_run(tmp_path, monkeypatch):
    """A run that learned from a pipe that is gone."""
    monkeypatch.chdir(tmp_path)
    with substituted(TEXT) as path:
        run.begin("runs/a", TrainConfig(data=(path,), **SETTINGS), stop_after=1)
    return path


def test_a_run_from_a_pipe_goes_on_is_shown_and_is_compared_without_waiting_for_it(piped_run, tmp_path, capsys):
    assert run.resume("runs/a")["finished"]
    app(["data", "show", "--run", "runs/a", "--json"], exit_on_error=False)
    shown = json.loads(capsys.readouterr().out)
    assert all(window["text"] in TEXT for window in shown["windows"])
    assert shown["windows"][0]["documents"] == [piped_run]
    training = json.loads(Path("runs/a/checkpoints/step-00000002/training.json").read_text())
    pieces = TrainingText(training, load_tokenizer(Path("runs/a/tokenizer"))).pieces()
    learned = "".join(piece.text for piece in pieces)
    assert TEXT.startswith(learned)
    assert len(learned) > 0.8 * len(TEXT)


def test_data_show_says_that_the_tokens_of_a_pipe_are_gone(piped_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HANDLOOM_CACHE", str(tmp_path / "other"))
    with pytest.raises(DataError, match=r"cannot be read again, and its tokens are not in the cache"):
        app(["data", "show", "--run", "runs/a"], exit_on_error=False)


def test_data_show_finds_the_text_from_another_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("t.txt").write_text(TEXT)
    run.begin("runs/a", TrainConfig(data=("t.txt",), **SETTINGS), stop_after=0)
    monkeypatch.chdir(tmp_path)
    app(["data", "show", "--run", "here/runs/a", "--json"], exit_on_error=False)
    assert json.loads(capsys.readouterr().out)["windows"]


def test_what_else_is_read_from_a_pipe(tmp_path, inside, trained_run):
    """Settings and prompts are read once; data check reads it as a run does; examples are refused."""
    (tmp_path / "t.txt").write_text(TEXT)
    with substituted("steps = 1\n") as path:
        command = f"train --data t.txt --run runs/a --config {path} {TINY}"
        assert inside(*command.split()).returncode == 0
    assert json.loads((tmp_path / "runs/a/summary.json").read_text())["steps"] == 1
    with substituted("The quick\nThe lazy\n") as path:
        done = inside(*f"generate --model {trained_run} --prompts {path} --max-new-tokens 1".split())
        assert len(done.out.splitlines()) == 2
    with substituted(TEXT) as path:
        done = inside("data", "check", "--data", path, "--json", "--context-length", "16")
        assert json.loads(done.out)["errors"] == 0
    with substituted(TEXT) as path:
        done = inside("evaluate", trained_run, "--data", path, "--json", "--threads", "1")
        assert done.returncode == 0, done.err
        assert json.loads(done.out)["data"] == [path]
    with substituted('{"text": "a", "label": "b"}\n') as path:
        done = inside("data", "check", "--task", "classify", "--data", path)
        assert "cannot come through the pipe" in done.out + done.err
