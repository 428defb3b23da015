"""Data that a run learns from, at another time or from another folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from handloom import storage
from handloom.data.builtin import BUILTIN
from handloom.errors import CheckpointError, DataError, HandloomError
from handloom.runtime import found_from, is_there
from handloom.values import parse_json

_NAMES = (*BUILTIN, "-")
_OF_PROCESS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""What means another file in each process, such as <(COMMAND), which a shell hands over as /dev/fd/63."""


def found(sources: Sequence[str], run: Path) -> tuple[str, ...]:
    """The sources of a run from here: as they are named, else from the folder it was begun in or one above the run."""
    folders = list(run.absolute().parents)
    with suppress(HandloomError):
        folders.insert(0, Path(str(storage.read_json(run / "data.json").get("folder", os.curdir))))
    return tuple(one if one in _NAMES else found_from(one, folders) for one in sources)


def passing(sources: Sequence[str]) -> list[str]:
    """Those that cannot be read again, for people: pipes, and what is not there any more."""
    others = (one for one in sources if one not in BUILTIN)
    return [
        "standard input" if one == "-" else one
        for one in others
        if one == "-" or one.startswith(_OF_PROCESS) or not is_there(one) or is_pipe(one)
    ]


def is_pipe(source: str) -> bool:
    """Whether what is there can be read only once, as <(COMMAND), /dev/stdin or a FIFO; true of devices too."""
    path = Path(source).expanduser() if source.startswith("~/") else Path(source)
    return path.exists() and not (path.is_file() or path.is_dir())


def key_of(run: Path) -> str:
    """The key of the data that a run learns from, which its data.json knows.

    Raises:
        CheckpointError: when that is missing or torn.
    """
    described = run / "data.json"
    if not described.is_file():
        raise CheckpointError(f"{run} is not a run folder: it has no data.json.", "Check the path.")
    try:
        return str(parse_json(described.read_bytes())["key"])
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(f"{described} is torn: it names no key.", "Resume the run, which mends it.") from None


def require_same(run: Path, key: str) -> None:
    """Raise DataError for another text than a run's, which would show another batch."""
    if (then := key_of(run)) != key:
        raise DataError(
            f"The text of run {run} is not what it was: its key is {key[:12]} instead of {then[:12]}.",
            "Put the text back as it was; only then can the batch be shown.",
        )
