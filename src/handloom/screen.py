"""Standard output and error that never fail: what cannot be shown is dropped, and the loss is recorded.

A pipe whose reader has ended, a full disk below a redirected log, a terminal or a descriptor that was closed.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

NAMES = ("stdout", "stderr")


class _Closed(io.TextIOBase):
    """What stands for a descriptor that is closed."""

    def write(self, text: str) -> int:
        return len(text)


class Screen:
    """A text stream that never fails, on top of another; `lost` says why something was not shown, the first time."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = _Closed() if stream is None else stream
        self.lost = "was closed before this began" if stream is None else ""

    def write(self, text: str) -> int:
        """Show the text if possible, also after an earlier failure; returns its length."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Show what is buffered, if possible."""
        self._try(self._stream.flush)

    def _try(self, show: Callable[..., object], *arguments: str) -> None:
        try:
            show(*arguments)
        except (OSError, ValueError) as error:  # ValueError: closed, or a character that it cannot show
            self.lost = self.lost or getattr(error, "strerror", None) or str(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def shielded(*names: str) -> Iterator[None]:
    """Within the block, printing to these of `NAMES` cannot fail; streams that a live display of rich wraps stay."""
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
    """The streams that have lost something, and why, such as `stdout: Broken pipe`."""
    streams = {name: getattr(sys, name) for name in NAMES}
    below = {name: getattr(stream, "rich_proxied_file", stream) for name, stream in streams.items()}
    return [f"{name}: {s.lost}" for name, s in below.items() if isinstance(s, Screen) and s.lost]


def fill_closed() -> None:
    """Open the null device in place of descriptors 0 to 2 that were closed before this process began.

    Otherwise the next file that is opened would get that number, and receive what is printed.
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
    """Discard what is still buffered, so that Python does not complain about it at the end."""
    with suppress(OSError, ValueError):  # an output that is not a file, or closed
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
