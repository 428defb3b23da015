"""Ctrl-C, SIGTERM and SIGHUP as a wish, not an accident: noted, and obeyed at the next safe place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.stop = False
        self.asked: SimpleQueue[bool] = SimpleQueue()
        """Gets True when somebody asks. Putting is safe within a signal's handler, as printing is not."""

    def ask(self, number: int = signal.SIGINT, _: FrameType | None = None) -> None:
        """Ask to stop; a second Ctrl-C raises KeyboardInterrupt at once.

        A terminal that closes and a machine that shuts down send several signals. Those are one wish.
        """
        if self.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop = True
        self.asked.put(True)


@contextmanager
def stop_on_signals(heard: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGHUP into a `StopRequest` for the time of the block.

    SIGHUP stays ignored where it is, as under nohup. Signals can be caught in the main thread only; elsewhere the
    wish is never made.

    Args:
        heard: called once when the wish is made, in a thread of its own, since the block may be busy for long.
    """
    wish = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def listen() -> None:
        if wish.asked.get():
            heard()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    before = {number: signal.signal(number, wish.ask) for number in numbers}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        wish.asked.put(False)
        listener.join()


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit for the time of the block, so that what is temporary is removed.

    Only those that would kill the process otherwise.
    """

    def end(number: int, _: FrameType | None) -> None:
        for one in before:  # a terminal that closes sends SIGHUP twice, and the end is not to be disturbed
            signal.signal(one, signal.SIG_DFL if one == signal.SIGTERM else signal.SIG_IGN)
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    deadly = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [number for number in deadly if signal.getsignal(number) is signal.SIG_DFL]
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
