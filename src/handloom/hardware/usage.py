"""How much of the processor other processes use, so that a measurement among them can be repeated."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from handloom.hardware.machine import granted_cpus

Result = TypeVar("Result")
_PROC = Path("/proc")
_SHORTEST = 0.1
"""Seconds below which the counters of the system are too coarse to say anything."""


class Meter:
    """Compares what the granted cores did with what this process, its ended children and `workers` (numbers) did."""

    def __init__(self, workers: Iterable[int] = (), proc: Path = _PROC) -> None:
        self._workers, self._proc, self._cpus = tuple(workers), proc, granted_cpus()

    def during(self, work: Callable[[], Result]) -> tuple[Result, float | None]:
        """What `work` returns, and how many cores others used meanwhile; None where that is not known."""
        before, began = self._others(), time.perf_counter()
        result = work()
        seconds, after = time.perf_counter() - began, self._others()
        if before is None or after is None or seconds < _SHORTEST:
            return result, None
        return result, max(0.0, (after - before) / seconds)

    def others(self, seconds: float = 0.5) -> float | None:
        """How many cores others use just now."""
        return self.during(lambda: time.sleep(seconds))[1]

    def _others(self) -> float | None:
        """Seconds that the granted cores worked, or that the host took, but for our own."""
        busy = busy_seconds(self._cpus, self._proc)
        if busy is None:
            return None
        own = sum(os.times()[:4]) + sum(process_seconds(number, self._proc) for number in self._workers)
        return busy - own


def busy_seconds(cpus: Iterable[int], proc: Path = _PROC) -> float | None:
    """Seconds that these logical cores were not idle since the start, from /proc/stat; None where there is none.

    Time that a virtual machine waits for its host (steal) counts: somebody else had the core.
    """
    wanted, ticks, seen = {f"cpu{number}" for number in cpus}, 0, False
    with suppress(OSError, ValueError):
        for line in (proc / "stat").read_text("ascii").splitlines():
            name, *fields = line.split()
            if name in wanted:
                numbers = [int(field) for field in fields[:8]]  # the guest's time is in the user's already
                ticks, seen = ticks + sum(numbers) - sum(numbers[3:5]), True
        return ticks / os.sysconf("SC_CLK_TCK") if seen else None
    return None


def process_seconds(number: int, proc: Path = _PROC) -> float:
    """Seconds that a process has computed; 0 where it is gone."""
    with suppress(OSError, ValueError, IndexError):
        fields = (proc / str(number) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
