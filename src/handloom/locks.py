"""What ends with its process, however that ends: locks on folders, and temporary folders.

A lock file names the owner's process and machine. Where a network disk has no such locks, filelock uses the existence
of the file instead. A temporary folder has a mark that its process holds locked; a later process removes folders with
our mark, of this user, that nobody holds, and no others.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from handloom.errors import CheckpointError
from handloom.storage import explaining_os_errors

try:
    import fcntl
except ImportError:  # Windows: no temporary folder is swept there
    fcntl = None  # type: ignore[assignment]

IN_FOLDER = ".handloom.lock"
"""The lock file of a folder that is locked from inside."""
PREFIX = "handloom-"
MARK = ".handloom-temporary"


def lock_beside(target: Path) -> Path:
    """The lock file of a folder that is replaced as a whole, and cannot hold its own."""
    return target.with_name(f".{target.name}{IN_FOLDER}")


@contextmanager
def hold(lock: Path, what: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only owner of `what` while the block lasts; the lock file is removed at the end.

    With `wait`, another owner is waited for, with a note on standard error. Raises CheckpointError if another process,
    or another thread of this one, owns it, and OSError if the disk refuses.
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
    with ExitStack() as stack:
        stack.callback(held.release)
        if not isinstance(held, SoftFileLock):
            stack.callback(_remove, [lock])  # while it is held: a process that waits for this very file begins again
            with suppress(OSError):
                lock.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
        yield


@contextmanager
def own(folder: Path) -> Iterator[None]:
    """Be the only owner of a folder, by a lock inside it. A folder made for that is removed again if it stays empty.

    Raises CheckpointError if another process owns it, or the disk refuses.
    """
    made: list[Path] = []
    with ExitStack() as stack:
        stack.callback(_remove, made)  # those that are not empty stay, with those above them
        with explaining_os_errors(folder):
            for path in (*reversed(folder.absolute().parents), folder):
                if not path.exists():
                    path.mkdir(exist_ok=True)
                    made.append(path)
            stack.enter_context(hold(folder / IN_FOLDER, folder))
        yield


def _remove(paths: list[Path]) -> None:
    with suppress(OSError):
        for path in reversed(paths):
            path.rmdir() if path.is_dir() else path.unlink()


def _in_use(lock: Path, what: str | Path) -> CheckpointError:
    try:
        process, machine = lock.read_text(encoding="utf-8").split("\n")[:2]
        owner = f"process {process} on {machine}"
    except (OSError, ValueError):
        owner = "another process"
    return CheckpointError(f"{what} is in use by {owner}.", "Wait for that process or stop it.")


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A folder that is removed when the block, `cleanup` or the process ends; `what` is part of its name."""

    def __init__(self, what: str) -> None:
        sweep()
        super().__init__(prefix=f"{PREFIX}{what}-", ignore_cleanup_errors=True)
        mark = os.path.join(self.name, MARK)
        self._held: int | None = os.open(f"{mark}-new", os.O_CREAT | os.O_WRONLY, 0o600)
        _lock(self._held)
        os.rename(f"{mark}-new", mark)  # it is locked from the moment that it can be seen

    def cleanup(self) -> None:
        """Remove it."""
        super().cleanup()
        if self._held is not None:
            os.close(self._held)
            self._held = None


def sweep() -> None:
    """Remove the temporary folders of this user's processes that were killed."""
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_abandoned(entry.path)


def _remove_abandoned(folder: str) -> None:
    try:
        mark = os.open(os.path.join(folder, MARK), os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:  # not ours
        return
    try:
        if fcntl is not None and os.fstat(mark).st_uid == os.geteuid() and _lock(mark):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(mark)


def _lock(descriptor: int) -> bool:
    """Lock a file for this process; returns whether that was possible."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
