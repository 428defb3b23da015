"""Ctrl-C and SIGTERM as a wish, not an accident: noted, and obeyed at the next safe place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Wish:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.stop = False

    def ask(self, *_: int | FrameType | None) -> None:
        """Ask to stop; asking a second time raises KeyboardInterrupt at once."""
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True


@contextmanager
def stop_on_signals() -> Iterator[Wish]:
    """Turn SIGINT and SIGTERM into a `Wish` for the time of the block.

    Signals can be caught in the main thread only; elsewhere the wish is never made.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.signal(number, wish.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
