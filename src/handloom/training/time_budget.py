"""The number of steps that fit into given minutes, by a clock that stands still while the process is suspended."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVENTS = 5
"""Validations, samples and checkpoints in a run whose settings do not say how often."""

MOST_PAUSED = 0.08
"""The fraction of given minutes that these may take: where they are slow, there are fewer."""

BEAT, GAP = 0.2, 1.0
"""Seconds between two readings of the clock; a longer pause than GAP may be a suspended process."""

FIRST_FRACTION, FIRST_SECONDS, FIRST_STEPS = 0.05, 30.0, 7
"""The steps are first chosen after this fraction of the time or so many seconds, and so many steps."""

TOLERANCE = 0.02
"""A choice stands while a new one would differ by at most this fraction."""


class Clock:
    """Computing time in seconds: what passes while the process is not suspended.

    Where two readings lie more than a second apart, either the process was suspended (SIGSTOP, a laptop asleep, a
    paused container) or a long operation held the readings up: of such a gap no more than the process's own processor
    time counts. `read` returns elapsed time and the processor time of all threads, both in seconds.
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
        """Read the clock regularly during the block, however long a step takes."""
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
    """The speed of one session of training, and the number of steps that it predicts.

    `before` are the seconds that earlier sessions of the same run took.
    """

    def __init__(self, before: float = 0.0, clock: Clock | None = None) -> None:
        self.clock, self._before, self.events = clock or Clock(), before, EVENTS
        self._steps: list[float] = []
        self._pauses: dict[str, tuple[list[float], int | None]] = {}
        self._next_plan: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        """Computing time of the run until now, all sessions together."""
        return self._before + self.clock.seconds

    @property
    def measured(self) -> bool:
        """Whether a step has been timed."""
        return bool(self._steps)

    def add_step(self, seconds: float) -> None:
        """Record the time of an optimizer step."""
        self._steps.append(seconds)

    def add_pause(self, kind: str, seconds: float, every: int | None) -> None:
        """Record the time of a validation, a round of samples or a save, which comes `every` so many steps (None:
        `events` times in the run)."""
        times, _ = self._pauses.get(kind, ([], None))
        self._pauses[kind] = [*times, seconds], every

    def step_seconds(self, last: int = 20) -> float:
        """Median time of the last steps, without the first two, which warm caches up."""
        return statistics.median_low((self._steps[2:] or self._steps)[-last:])

    def plan(self, minutes: float, step: int, total: int | None) -> int | None:
        """The number of steps of the run, if it is time to choose it and the choice changes `total`.

        It is first chosen when enough steps were timed for their median to be reliable, and revised whenever a third
        of what remains, in steps or in time, has passed: a choice made in a slow moment is corrected long before the
        run ends by it. `step` steps are done; `total` is the choice until now, or None.
        """
        budget, seconds, timed = 60 * minutes, self.seconds, len(self._steps)
        if total is None:
            early = timed >= FIRST_STEPS and seconds >= min(FIRST_FRACTION * budget, FIRST_SECONDS)
            if not early and not (timed and seconds >= budget / 3):
                return None
        else:
            self._next_plan = self._next_plan or _next_plan(budget, seconds, step, total)
            if timed < 3 or (step < self._next_plan[0] and seconds < self._next_plan[1]):
                return None
        paused = sum(statistics.median_low(times) for times, every in self._pauses.values() if not every)
        self.events = max(1, min(EVENTS, int(MOST_PAUSED * budget / paused))) if paused else EVENTS
        chosen = self.steps_within(minutes, step)
        if total is not None and abs(chosen - total) <= TOLERANCE * total:
            chosen = total
        self._next_plan = _next_plan(budget, seconds, step, chosen)
        return None if chosen == total else chosen

    def steps_within(self, minutes: float, step: int) -> int:
        """The number of steps, those done included, after which `minutes` will have passed."""
        left, each = minutes * 60 - self.seconds, self._seconds_per_step()
        total = step + max(0, int(left / each))
        for _ in range(3):  # the remaining pauses depend on the number of steps, and that on them
            total = step + max(0, int((left - self._remaining_pauses(step, total)) / each))
        return max(total, 1)

    def predict(self, step: int, total: int) -> float:
        """Seconds that the whole run of `total` steps will have taken, of which `step` are done."""
        return self.seconds + self._remaining_pauses(step, total) + (total - step) * self._seconds_per_step()

    def _remaining_pauses(self, step: int, total: int) -> float:
        """Seconds for the remaining pauses of those that come `events` times in the run."""
        every = max(1, math.ceil(total / self.events))
        events = total // every - step // every + (total % every > 0)
        return events * sum(statistics.median_low(times) for times, every in self._pauses.values() if not every)

    def _seconds_per_step(self) -> float:
        """Seconds for a step with its part of the pauses that come every so many steps."""
        parts = (statistics.median_low(times) / every for times, every in self._pauses.values() if every)
        return self.step_seconds() + sum(parts)


def _next_plan(budget: float, seconds: float, step: int, total: int) -> tuple[float, float]:
    """The step and the time, whichever comes first, at which to choose again; never, for the last few steps."""
    left = total - step
    if left <= TOLERANCE * total:
        return math.inf, math.inf
    return step + math.ceil(left / 3), seconds + max(0.0, budget - seconds) / 3
