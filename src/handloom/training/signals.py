"""Turns SIGINT, SIGTERM and SIGHUP into a stop request, honoured between micro-batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType


class StopRequest:
    """Whether a stop was requested, by a signal or by `request`."""

    def __init__(self) -> None:
        self.stop = False
        self.queue: SimpleQueue[bool] = SimpleQueue()
        """Receives True at the request. Putting is safe within a signal handler, as printing is not."""

    def request(self, number: int = signal.SIGINT, _: FrameType | None = None) -> None:
        """Request a stop; a second Ctrl-C raises KeyboardInterrupt at once.

        A closing terminal and a machine that shuts down send several signals, which count as one request.
        """
        if self.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop = True
        self.queue.put(True)


@contextmanager
def stop_on_signals(on_request: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGHUP into a `StopRequest` during the block.

    SIGHUP stays ignored where it is, as under nohup. Signals can be caught in the main thread only; elsewhere no
    request is ever made. `on_request` is called once, in its own thread, since the block may be busy for long.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def listen() -> None:
        if request.queue.get():
            on_request()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    before = {number: signal.signal(number, request.request) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        request.queue.put(False)
        listener.join()


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit during the block where they would kill the process, so that temporary
    files are removed."""

    def end(number: int, _: FrameType | None) -> None:
        for one in deadly:  # a closing terminal sends SIGHUP twice, and cleaning up must not be interrupted
            signal.signal(one, signal.SIG_DFL if one == signal.SIGTERM else signal.SIG_IGN)
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    deadly = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in deadly:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in deadly:
            signal.signal(number, signal.SIG_DFL)
