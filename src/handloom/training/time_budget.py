"""How many steps fit into the minutes that were given, by a clock that stands still while the process does."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVENTS = 5
"""Validations and samples in a run whose settings do not say how often."""

BEAT = 0.2
"""Seconds between two looks at the clock."""

GAP = 1.0
"""A pause between two looks from which on it is asked whether the process was running at all, in seconds."""

FIRST_SHARE, FIRST_SECONDS, FIRST_STEPS = 0.05, 30.0, 7
"""When the steps are chosen first: after this share of the time or so many seconds, and so many steps."""

TOLERANCE = 0.02
"""A choice stands while another would differ by at most this share."""


class Clock:
    """Computing time, in seconds: what passes while the process is not suspended.

    The clock is read five times a second. Where two readings lie more than a second apart, nothing of the process
    was running for so long (SIGSTOP, a laptop asleep, a container that was paused) or the readings themselves were
    held up by work. The process's own processor time tells which: no more than that counts of such a gap.

    Args:
        read: gives the time that passes, and the processor time of all threads, in seconds.
    """

    def __init__(
        self, read: Callable[[], tuple[float, float]] = lambda: (time.perf_counter(), time.process_time())
    ) -> None:
        self._read, self._lock = read, threading.Lock()
        self._last, self._counted = read(), 0.0

    @property
    def seconds(self) -> float:
        """Computing time since the clock was made."""
        with self._lock:
            now = self._read()
            passed, computed = now[0] - self._last[0], now[1] - self._last[1]
            self._counted += passed if passed < GAP else min(passed, computed + BEAT)
            self._last = now
            return self._counted

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Read the clock again and again for the time of the block, however long a step takes."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT):
                _ = self.seconds

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class StepTimer:
    """How fast one session of training goes, and how many steps it will come to.

    Args:
        before: seconds that earlier sessions of the same run took.
        clock: of computing time.
    """

    def __init__(self, before: float = 0.0, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self._before = before
        self._steps: list[float] = []
        self._pauses: dict[str, tuple[list[float], int | None]] = {}
        self._next: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        """Computing time of the run up to now, all sessions together."""
        return self._before + self.clock.seconds

    @property
    def measured(self) -> bool:
        """Whether a step has been timed."""
        return bool(self._steps)

    def stepped(self, seconds: float) -> None:
        """Note how long an optimizer step took."""
        self._steps.append(seconds)

    def paused(self, what: str, seconds: float, every: int | None) -> None:
        """Note how long a validation, a round of samples or a save took, and how often it comes.

        Args:
            what: which of them.
            seconds: how long it took.
            every: steps from one to the next; None: `EVENTS` times in the run.
        """
        times, _ = self._pauses.get(what, ([], None))
        self._pauses[what] = [*times, seconds], every

    def step_seconds(self, last: int = 20) -> float:
        """Median time of the last steps; the very first ones, which warm caches up, are left out."""
        measured = self._steps[2:] or self._steps
        return statistics.median_low(measured[-last:])

    def plan(self, minutes: float, step: int, total: int | None) -> int | None:
        """The number of steps of the run, where it is time to choose it and the choice changes.

        It is chosen first when enough steps were timed for their median to be trusted, and looked at again whenever
        a third of what was left, in steps or in time, is over: a choice made in a bad moment is corrected long
        before the run ends by it.

        Args:
            minutes: of computing, for the whole run.
            step: steps that are done.
            total: the choice up to now, or None.
        """
        budget, seconds, timed = 60 * minutes, self.seconds, len(self._steps)
        if total is None:
            early = timed >= FIRST_STEPS and seconds >= min(FIRST_SHARE * budget, FIRST_SECONDS)
            if not early and not (timed and seconds >= budget / 3):
                return None
        else:
            self._next = self._next or self._next_look(budget, seconds, step, total)
            if timed < 3 or (step < self._next[0] and seconds < self._next[1]):
                return None
        chosen = self.steps_within(minutes, step)
        if total is not None and abs(chosen - total) <= TOLERANCE * total:
            chosen = total
        self._next = self._next_look(budget, seconds, step, chosen)
        return None if chosen == total else chosen

    def _next_look(self, budget: float, seconds: float, step: int, total: int) -> tuple[float, float]:
        """The step and the time, whichever comes first, at which to look again; never, for the last few steps."""
        left = total - step
        if left <= TOLERANCE * total:
            return math.inf, math.inf
        return step + math.ceil(left / 3), seconds + max(0.0, budget - seconds) / 3

    def steps_within(self, minutes: float, step: int) -> int:
        """The number of steps, those done included, after which `minutes` will be over."""
        left, each = minutes * 60 - self.seconds, self._each()
        total = step + max(0, int(left / each))
        for _ in range(3):  # the pauses that are left depend on the number of steps, and that on them
            total = step + max(0, int((left - self._fixed(step, total)) / each))
        return max(total, 1)

    def predict(self, step: int, total: int) -> float:
        """Seconds that the whole run of `total` steps will have taken, of which `step` are done."""
        return self.seconds + self._fixed(step, total) + (total - step) * self._each()

    def _fixed(self, step: int, total: int) -> float:
        """Seconds for what is left of the pauses that come `EVENTS` times."""
        every = max(1, math.ceil(total / EVENTS))
        events = total // every - step // every + (total % every > 0)
        return events * sum(statistics.median_low(times) for times, every in self._pauses.values() if not every)

    def _each(self) -> float:
        """Seconds for a step and its share of the pauses that come every so many steps."""
        shares = (statistics.median_low(times) / every for times, every in self._pauses.values() if every)
        return self.step_seconds() + sum(shares)
