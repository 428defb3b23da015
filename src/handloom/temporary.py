"""Temporary folders that do not outlive their process: a later one removes what a killed one left.

A folder carries our mark, a file that its process holds locked; the system lets go of the lock when the process
ends, however it ends. Only a folder with our mark, of this user, that nobody holds is ever removed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress

try:
    import fcntl
except ImportError:  # Windows: nothing is swept there
    fcntl = None  # type: ignore[assignment]

PREFIX = "handloom-"
MARK = ".handloom-temporary"


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A folder that goes when the block ends, `cleanup` is called, or the process ends.

    Args:
        what: part of its name.
    """

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
    """Remove what processes of this user left that were killed."""
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
    if fcntl is None:
        return False
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
