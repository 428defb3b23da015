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
        self._pauses: dict[str, float] = {}

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

    def paused(self, what: str, seconds: float) -> None:
        """Note how long a validation, or a round of samples, took."""
        self._pauses[what] = seconds

    def step_seconds(self, last: int = 20) -> float:
        """Median time of the last steps; the very first ones, which warm caches up, are left out."""
        measured = self._steps[2:] or self._steps
        return statistics.median(measured[-last:])

    def ready(self, minutes: float) -> bool:
        """Whether enough steps were measured: a twentieth of the time, and three at least."""
        return len(self._steps) >= 3 and sum(self._steps) >= 0.05 * 60 * minutes

    def steps_within(self, minutes: float, step: int) -> int:
        """The number of steps, those done included, after which `minutes` will be over.

        The validations and samples to come are taken to cost what the first did.
        """
        left = minutes * 60 - self.seconds - EVENTS * sum(self._pauses.values())
        return step + max(1, int(left / self.step_seconds()))

    def predict(self, steps: int) -> float:
        """Seconds that the whole run will have taken after `steps` more."""
        return self.seconds + EVENTS * sum(self._pauses.values()) + steps * self.step_seconds()
