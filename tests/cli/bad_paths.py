"""Paths, settings of runs that go on, and pipes that cannot be used: rows of docs/errors.md."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from bad_inputs import NEWEST, OLDER, BadInput, tune


def _environment(**values: str | None):
    """Change the environment; None takes a variable out."""

    def before(undo: ExitStack) -> None:
        patch = undo.enter_context(pytest.MonkeyPatch.context())
        for name, value in values.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)

    return before


def _homeless(undo: ExitStack) -> None:
    _environment(HOME=None, HANDLOOM_CACHE=None, XDG_CACHE_HOME=None)(undo)
    undo.enter_context(pytest.MonkeyPatch.context()).setattr("pwd.getpwuid", {}.__getitem__)


def _edited(old: str, new: str):
    """Edit the settings of runs/demo."""

    def before(_: ExitStack) -> None:
        file = Path("runs/demo/config.toml")
        file.write_text(file.read_text().replace(old, new))

    return before


def _copy_checkpoint(_: ExitStack) -> None:
    shutil.copytree(OLDER, "alone")


def _lose_text(_: ExitStack) -> None:
    Path("fox.txt").rename("moved.txt")
    shutil.rmtree("cache")
    about = Path("runs/demo/data.json")
    about.write_text(json.dumps({**json.loads(about.read_text()), "folder": "."}))


def _write_utf16(_: ExitStack) -> None:
    Path("settings.toml").write_text("steps = 3\n", encoding="utf-16")


def _make_fifo(_: ExitStack) -> None:
    os.mkfifo("examples.jsonl")


def _piped(_: ExitStack) -> None:
    """As if runs/demo had learned from a pipe, with another cache."""
    for file in (Path("runs/demo/config.toml"), NEWEST / "training.json"):
        file.write_text(file.read_text().replace('"fox.txt"', '"-"'))
    shutil.rmtree("cache")


CASES = [
    BadInput("data from a variable that is not set", 'handloom train --data "" --run runs/new'),
    BadInput("an empty name for a run", "handloom train --data fox.txt --run="),
    BadInput("an empty name for a model", 'handloom generate Hi --model ""'),
    BadInput("an empty name for a new folder", 'handloom export runs/demo "" --to hf'),
    BadInput("an empty cache folder", "handloom data prepare --data fox.txt", _environment(HANDLOOM_CACHE="")),
    BadInput("a user without a home folder", "handloom data prepare --data fox.txt", _homeless),
    BadInput("the home folder of nobody", "handloom train --data fox.txt --run=~no-such-user/x"),
    BadInput(
        "settings of a run edited that cannot change",
        "handloom train --resume runs/demo",
        _edited("embed_dim = 16", "embed_dim = 32"),
    ),
    BadInput("a checkpoint that is not the last", f"handloom train --resume {OLDER}"),
    BadInput("no checkpoint beyond which to drop", "handloom train --resume runs/demo --drop-later"),
    BadInput("later checkpoints of a new run", "handloom train --data fox.txt --run runs/new --drop-later"),
    BadInput("a checkpoint outside of its run", "handloom train --resume alone", _copy_checkpoint),
    BadInput("text that was moved", "handloom train --resume runs/demo --steps 5", _lose_text),
    BadInput("other text than a run's", "handloom train --resume runs/demo --data long.txt"),
    BadInput("a stop before the beginning", "handloom train --data fox.txt --run runs/new --stop-after -1"),
    BadInput("settings in UTF-16", "handloom train --config settings.toml --data fox.txt", _write_utf16),
    BadInput("a device as data", "handloom train --data /dev/zero --run runs/new"),
    BadInput("examples from a named pipe", tune("classify", "examples.jsonl"), _make_fifo),
    BadInput("a batch of a run from a pipe", "handloom data show --run runs/demo", _piped),
]
