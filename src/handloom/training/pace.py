"""How many steps fit into the minutes that were given."""

from __future__ import annotations

import statistics
import time

EVENTS = 5
"""Validations and samples in a run whose settings do not say how often."""


class Pace:
    """A clock over one session of training.

    Args:
        before: seconds that earlier sessions of the same run took.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._before = before
        self._began = time.perf_counter()
        self._steps: list[float] = []
        self._pauses: dict[str, tuple[float, int | None, int]] = {}

    @property
    def seconds(self) -> float:
        """Time that the run has taken up to now, all sessions together."""
        return self._before + time.perf_counter() - self._began

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
        times = (
            self._pauses[what][2] + 1 if what in self._pauses else 0
        )  # that before the first step is extra
        self._pauses[what] = seconds, every, times

    def step_seconds(self, last: int = 20) -> float:
        """Median time of the last steps; the very first ones, which warm caches up, are left out."""
        measured = self._steps[2:] or self._steps
        return statistics.median(measured[-last:])

    def ready(self, minutes: float) -> bool:
        """Whether the run has gone on for so long, and at least three steps were measured."""
        return len(self._steps) >= 3 and self.seconds >= 60 * minutes

    def steps_within(self, minutes: float, step: int) -> int:
        """The number of steps, those done included, after which `minutes` will be over."""
        left = minutes * 60 - self.seconds - self._fixed()
        return step + max(1, int(left / self._each()))

    def predict(self, steps: int) -> float:
        """Seconds that the whole run will have taken after `steps` more."""
        return self.seconds + self._fixed() + steps * self._each()

    def _fixed(self) -> float:
        """Seconds for what is left of the pauses that come `EVENTS` times; each as long as its last."""
        pauses = self._pauses.values()
        return sum(max(0, EVENTS - times) * seconds for seconds, every, times in pauses if every is None)

    def _each(self) -> float:
        """Seconds for a step and its share of the pauses that come every so many steps."""
        return self.step_seconds() + sum(
            seconds / every for seconds, every, _ in self._pauses.values() if every
        )
