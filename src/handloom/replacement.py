"""Replace a run or an exported folder so that the earlier one comes back if anything fails, a SIGKILL included.

A run is replaced inside its folder: what was there is moved to `.previous`, and removed when the new run has saved its
first checkpoint. An export is written next to its folder and exchanged with it. What a killed process has left is put
back in order by the next one that owns the folder; readers find the earlier run meanwhile (`current`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from handloom import locks, ownership, storage
from handloom.ownership import MOVING, PREVIOUS

_REMOVED = f"{storage.UNFINISHED}removed"
_KEPT = frozenset((PREVIOUS, MOVING, locks.IN_FOLDER, _REMOVED))
"""What stays in a run folder while its run is moved."""


@contextmanager
def new_run(run: Path) -> Iterator[Callable[[], None]]:
    """Replace what is in a run folder, which `ownership.require_replaceable` has allowed and this process owns.

    Yields a function to call when the new run has saved its first checkpoint: the earlier one is removed then. If the
    block ends before, everything the new run wrote is removed, and the earlier run is put back. Raises CheckpointError
    when the disk refuses.
    """
    try:
        with storage.explaining_os_errors(run):
            _set_aside(run)
        yield lambda: _remove_previous(run)
    finally:
        recover_run(run)


def recover_run(run: Path) -> None:
    """Put back the run that was being replaced when a process ended before the new one had saved a checkpoint.

    Raises CheckpointError when the disk refuses.
    """
    with storage.explaining_os_errors(run):
        if (run / PREVIOUS).is_dir():
            ownership.remove_ours(run, keep=_KEPT)
            os.rename(run / PREVIOUS, run / MOVING)
        linked = _linked(run)
        if (run / MOVING).is_dir():
            _move(linked / PREVIOUS, linked)
            _move(run / MOVING, run)
            (run / MOVING).rmdir()
        shutil.rmtree(linked / PREVIOUS, ignore_errors=True)  # empty, or of a run that was replaced
        storage.remove_unfinished(run)
        storage.remove_unfinished(run / ownership.CHECKPOINTS)


def current(folder: Path) -> Path:
    """Where the files of a run or a model are: in its folder, or where the earlier one was moved to.

    The latter until a new run in the folder has saved something, or after a process was killed while it exchanged two
    folders.
    """
    if not folder.exists():
        older = storage.previous_of(folder)
        return older if older.is_dir() else folder
    moved = (folder / name for name in (PREVIOUS, MOVING))
    return next((place for place in moved if (place / ownership.CHECKPOINTS).is_dir()), folder)


def _set_aside(run: Path) -> None:
    (run / MOVING).mkdir()
    if (linked := _linked(run)).is_dir():
        (linked / PREVIOUS).mkdir()
        _move(linked, linked / PREVIOUS)
    _move(run, run / MOVING)
    os.rename(run / MOVING, run / PREVIOUS)
    storage.sync(run)


def _linked(run: Path) -> Path:
    """The folder of the checkpoints where a link leads to it, perhaps on another disk; else a place without files."""
    folder = run / ownership.CHECKPOINTS
    return folder if folder.is_symlink() else run / _REMOVED


def _move(source: Path, target: Path) -> None:
    """Move what is in one folder into another on the same disk; a link to the checkpoints stays where it is.

    A folder that is in both is moved file by file: somebody has put files of their own there.
    """
    for entry in sorted(source.iterdir()) if source.is_dir() else ():
        if entry.name in _KEPT or (entry.is_symlink() and entry.name == ownership.CHECKPOINTS):
            continue
        if (target / entry.name).is_dir():
            _move(entry, target / entry.name)
            entry.rmdir()
        else:
            os.rename(entry, target / entry.name)


def _remove_previous(run: Path) -> None:
    """The new run is complete from here on."""
    if (run / PREVIOUS).is_dir():
        with storage.explaining_os_errors(run):
            os.rename(run / PREVIOUS, run / _REMOVED)
            storage.sync(run)
        for folder in (run / _REMOVED, _linked(run) / PREVIOUS):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(target: Path, expected_bytes: int, reads: Iterable[str | Path], overwrite: bool) -> Iterator[Path]:
    """`storage.atomic_folder` for a folder that a user named; a link to a folder stays one.

    Raises as `ownership.require_replaceable` for what the command `reads` and whether it may `overwrite`, or
    CheckpointError when another process makes the same folder or the disk refuses. `target` is as it was then.
    """
    target = Path(os.path.realpath(target))
    with ExitStack() as stack:
        with storage.explaining_os_errors(target):
            stack.enter_context(owned(target))
        ownership.require_replaceable(target, reads, overwrite)
        yield stack.enter_context(storage.atomic_folder(target, expected_bytes))


@contextmanager
def owned(target: Path) -> Iterator[None]:
    """Be the only owner of a folder that is replaced as a whole, after what a killed process left is put in order.

    Raises CheckpointError if another process owns it, and OSError if the disk refuses.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locks.hold(locks.lock_beside(target), ownership.shown(target)):
        storage.recover(target)
        yield
