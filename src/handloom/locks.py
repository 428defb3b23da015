"""One owner at a time: operating-system locks on run folders, exports, prepared data and pulls.

A lock is held while its process lives and is gone with it, however that ends. The lock file names the owner's process
and machine. Where a network disk has no such locks, filelock uses the existence of the file instead.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from handloom.errors import CheckpointError
from handloom.storage import explaining_os_errors

IN_FOLDER = ".handloom.lock"
"""The lock file of a folder that is locked from inside."""


def lock_beside(target: Path) -> Path:
    """The lock file of a folder that is replaced as a whole, and cannot hold its own."""
    return target.with_name(f".{target.name}{IN_FOLDER}")


@contextmanager
def hold(lock: Path, what: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only owner of `what` while the block lasts.

    Args:
        lock: the lock file; its folder is there. It is removed at the end.
        what: named in the error.
        wait: for another owner to end, which is said on standard error, instead of an error.

    Raises:
        CheckpointError: another process, or another thread of this one, owns it.
        OSError: the disk refuses.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    held = FileLock(lock, timeout=0.2, thread_local=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the existence of the file is used instead
        try:
            held.acquire(poll_interval=0.05)
        except Timeout:
            error = _in_use(lock, what)
            if not wait:
                raise error from None
            from handloom import console

            console.note(f"{error.problem} Waiting for it to end.")
            held.acquire(timeout=-1)
    native = not isinstance(held, SoftFileLock)
    with ExitStack() as stack:
        stack.callback(held.release)
        if native:
            stack.callback(_remove, lock)  # while it is held: a process that waits for this very file begins again
            with suppress(OSError):
                lock.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
        yield


@contextmanager
def own(folder: Path) -> Iterator[None]:
    """Be the only owner of a folder, by a lock inside it. A folder made for that goes again if it stays empty.

    Raises:
        CheckpointError: another process owns it, or the disk refuses.
    """
    made: list[Path] = []
    with ExitStack() as stack:
        stack.callback(_remove_empty, made)
        with explaining_os_errors(folder):
            for path in (*reversed(folder.absolute().parents), folder):
                if not path.exists():
                    path.mkdir(exist_ok=True)
                    made.append(path)
            stack.enter_context(hold(folder / IN_FOLDER, folder))
        yield


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # a folder that is not empty stays, with those above it
        for path in reversed(folders):
            path.rmdir()


def _remove(lock: Path) -> None:
    with suppress(OSError):
        lock.unlink()


def _in_use(lock: Path, what: str | Path) -> CheckpointError:
    try:
        process, machine = lock.read_text(encoding="utf-8").split("\n")[:2]
        owner = f"process {process} on {machine}"
    except (OSError, ValueError):
        owner = "another process"
    return CheckpointError(f"{what} is in use by {owner}.", "Wait for that process or stop it.")
