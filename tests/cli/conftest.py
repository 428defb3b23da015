"""The command line as a user has it, in a process of its own or in this one, and a run to write with."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest
from bad_inputs import build_world

from handloom.cli.main import main


class Ended(NamedTuple):
    """What a command came to."""

    returncode: int
    out: str
    err: str


def environment(cache, **more):
    """What a command sees: a screen of 80 columns, one thread, and a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    return {
        **kept,
        "HANDLOOM_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "80",
        "PYTHONIOENCODING": "",
        **more,
    }


def command(*words):
    return [sys.executable, "-m", "handloom", *map(str, words)]


@pytest.fixture
def handloom(tmp_path):
    """Run a command to its end, in an empty folder."""

    def run(*words, stdin=b"", **more):
        done = subprocess.run(
            command(*words),
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env=environment(tmp_path / "cache", **more),
            timeout=120,
        )
        return Ended(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))

    return run


@pytest.fixture
def start(tmp_path):
    """Start a command and leave it running; it is ended with the test."""
    started = []

    def run(*words, **options):
        process = subprocess.Popen(
            command(*words),
            cwd=tmp_path,
            env=environment(tmp_path / "cache"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            **options,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def inside(tmp_path, monkeypatch, capsys):
    """Like `handloom`, in this very process: no seconds are spent on importing torch anew."""

    def run(*words, stdin=b""):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return Ended(left.value.code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A run of four steps, with two checkpoints. Not to be changed: copy it first."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDLOOM_CACHE", str(folder / "cache"))
        build_world(folder)
    return folder / "runs" / "demo"
