"""Standard output and error as a screen that may vanish: what cannot be shown is dropped, and known to be lost.

A pipe whose reader has ended, a full disk under a redirected log, a terminal that was closed, and a descriptor that
was closed from the beginning are one case each of the same thing. Knows nothing of ours.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

NAMES = ("stdout", "stderr")


class Screen(io.TextIOBase):
    """A text stream that never fails.

    Each write is tried, so that a disk that has room again shows the later lines.

    Args:
        stream: where to write; None where the descriptor is closed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.lost = "was closed before this began" if stream is None else ""
        """Why something could not be shown, the first time; empty while everything was."""

    def write(self, text: str) -> int:
        """Show it, if that is possible; returns how much was taken, which is all."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """Show what waits, if that is possible."""
        self._try("flush")

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream below."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream below."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def _try(self, what: str, *arguments: str) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, what)(*arguments)
        except (OSError, ValueError) as error:  # ValueError: closed, or a character that it cannot show
            self.lost = self.lost or getattr(error, "strerror", None) or str(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def shielded(*names: str) -> Iterator[None]:
    """For the time of the block, nothing that is printed to these of `NAMES` can fail.

    A stream that is a `Screen` already stays, and so does one that a live display of rich stands for.
    """
    before = {name: getattr(sys, name) for name in names}
    for name, stream in before.items():
        if not isinstance(stream, Screen) and not hasattr(stream, "rich_proxied_file"):
            setattr(sys, name, Screen(stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            if isinstance(getattr(sys, name), Screen):
                setattr(sys, name, stream)


def losses() -> list[str]:
    """Which streams have lost something, and why, such as `stdout: Broken pipe`."""
    streams = {name: getattr(sys, name) for name in NAMES}
    below = {name: getattr(stream, "rich_proxied_file", stream) for name, stream in streams.items()}
    return [f"{name}: {s.lost}" for name, s in below.items() if isinstance(s, Screen) and s.lost]


def fill_closed() -> None:
    """Where a descriptor was closed before this process began, put one that swallows everything.

    Otherwise the next file that is opened would get its number, and `print(..., file=sys.stderr)` would write to
    standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    for name in NAMES:
        if getattr(sys, name) is None:
            setattr(sys, name, Screen(None))


def abandon(stream: TextIO) -> None:
    """What still waits to be written goes nowhere, so that Python does not complain about it at the end."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):  # an output that is no file, or closed, has no such end
        pass
