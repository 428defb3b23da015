"""A temporary folder does not outlive its process by more than the time to the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from handloom import locks
from handloom.cli.main import main
from handloom.data.corpus import open_corpus
from handloom.locks import TemporaryFolder, sweep

HOLD = "from handloom.locks import TemporaryFolder as T; t = T('stdin'); print(t.name, flush=True); input()"


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


@pytest.fixture
def held():
    """A process that has made a temporary folder and lives; and that folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_what_a_killed_process_left_goes_and_what_a_living_one_holds_stays(held):
    process, folder = held
    sweep()
    assert os.path.isdir(folder)
    process.kill()
    process.wait()
    assert os.path.isdir(folder)
    with TemporaryFolder("verify") as mine:
        assert not os.path.exists(folder)
        with pytest.raises(SystemExit):
            main(["model", "list"])
        assert os.path.isdir(mine)
    assert not os.path.exists(mine)


def test_nothing_without_our_mark_is_removed(tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    theirs = place / "handloom-stdin-notes"
    theirs.mkdir()
    (theirs / "kept.txt").write_text("kept", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / locks.MARK).touch()
    (place / "handloom-link").symlink_to(elsewhere)
    marked_by_link = place / "handloom-marked"
    marked_by_link.mkdir()
    (marked_by_link / locks.MARK).symlink_to(elsewhere / locks.MARK)
    of_another_user = place / "handloom-other"
    of_another_user.mkdir()
    (of_another_user / locks.MARK).touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.stat(theirs).st_uid + 1)
        sweep()
    assert of_another_user.exists()
    sweep()
    assert not of_another_user.exists()  # it was ours after all
    assert (theirs / "kept.txt").exists()
    assert (elsewhere / locks.MARK).exists()
    assert marked_by_link.exists()


def test_a_corpus_from_standard_input_takes_its_folder_along(monkeypatch, tmp_path):
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"once upon a time")))
    corpus = open_corpus("-")
    (made,) = (tmp_path / "temporary").iterdir()
    (kept,) = (path for path in made.iterdir() if path.name != locks.MARK)
    assert kept.read_bytes() == b"once upon a time"
    del corpus
    assert not made.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_leaves_nothing(tmp_path, number):
    place = tmp_path / "temporary"
    with subprocess.Popen(
        [sys.executable, "-m", "handloom", "data", "prepare", "--data", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        while not any(path.name != locks.MARK for path in place.glob("handloom-stdin-*/*")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert list(place.iterdir()) == []
