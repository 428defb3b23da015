"""Ctrl-C and SIGTERM as a wish, not an accident: noted, and obeyed at the next safe place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Wish:
    """Whether somebody asked to stop; `heard` is called when they do."""

    def __init__(self, heard: Callable[[], None] = lambda: None) -> None:
        self.stop = False
        self._heard = heard

    def ask(self, *_: int | FrameType | None) -> None:
        """Ask to stop; asking a second time raises KeyboardInterrupt at once."""
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True
        self._heard()


@contextmanager
def stop_on_signals(heard: Callable[[], None] = lambda: None) -> Iterator[Wish]:
    """Turn SIGINT and SIGTERM into a `Wish` for the time of the block; `heard` is called at the first.

    Signals can be caught in the main thread only; elsewhere the wish is never made.
    """
    wish = Wish(heard)
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.signal(number, wish.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
