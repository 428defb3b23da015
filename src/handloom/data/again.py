"""Data that a run learns from, at another time or from another folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from handloom import storage
from handloom.data.builtin import BUILTIN
from handloom.errors import HandloomError
from handloom.runtime import expanded, found_from, is_there

_NAMES = (*BUILTIN, "-")


def found(sources: Sequence[str], run: Path) -> tuple[str, ...]:
    """The sources of a run from here: as they are named, else from the folder it was begun in or one above the run."""
    folders = list(run.absolute().parents)
    with suppress(HandloomError):
        folders.insert(0, Path(str(storage.read_json(run / "data.json").get("folder", os.curdir))))
    return tuple(one if one in _NAMES else found_from(one, folders) for one in sources)


def from_anywhere(sources: Sequence[str]) -> tuple[str, ...]:
    """Sources with their paths in full."""
    return tuple(one if one in _NAMES else os.path.abspath(expanded(one, "--data")) for one in sources)


def passing(sources: Sequence[str]) -> list[str]:
    """Those that cannot be read again: standard input and other pipes, and what is not there any more."""
    others = (one for one in sources if one not in BUILTIN)
    return [one for one in others if one == "-" or not is_there(one) or is_pipe(Path(one))]


def is_pipe(path: Path) -> bool:
    """Whether what is there can be read only once: a pipe, a terminal, a socket."""
    return path.exists() and not (path.is_file() or path.is_dir())
