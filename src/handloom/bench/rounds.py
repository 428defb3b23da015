"""Rounds of several processes that take turns; those among which others used the machine are repeated and counted."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from handloom.bench.kinds import BenchSettings
from handloom.errors import HandloomError
from handloom.hardware.usage import Meter
from handloom.values import parse_json

MOST_OTHERS = 0.15
"""Cores that others may use in a round that counts."""
WORKER = "handloom.bench.worker"
ATTEMPTS = 4
"""Rounds after which the quietest counts, busy as it was."""


class Measured(Protocol):
    """What a row is measured by."""

    facts: dict[str, Any]

    def round(self, threads: int | None = None) -> dict[str, Any]:
        """One round, with that many threads from now on: `tokens`, `seconds`, `each`, `peak_memory_bytes`."""

    def during(self, work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float | None]:
        """As `Meter.during`."""


@dataclass
class Row:
    """The rounds of one precision."""

    name: str
    facts: dict[str, Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    repeated: int = 0
    busy: int = 0
    """Rounds that count although others used the machine, since no quiet moment came."""

    def measure(self, worker: Measured, threads: int | None = None) -> None:
        """Add one round, the first quiet one of at most `ATTEMPTS`, or the quietest."""
        attempts: list[tuple[float, dict[str, Any]]] = []
        while len(attempts) < ATTEMPTS and (not attempts or attempts[-1][0] > MOST_OTHERS):
            done, others = worker.during(lambda: worker.round(threads))
            attempts.append((others or 0.0, done))
        others, done = min(attempts, key=lambda attempt: attempt[0])
        self.rounds.append(done)
        self.repeated += len(attempts) - 1
        self.busy += others > MOST_OTHERS

    def speeds(self) -> list[float]:
        """Tokens a second of each round."""
        return [done["tokens"] / done["seconds"] for done in self.rounds]

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON, without its share of the limit."""
        each = sorted(seconds for done in self.rounds for seconds in done["each"])
        speeds = self.speeds()
        return {
            "precision": self.name,
            "backend": self.facts["backend"],
            "tokens_per_second": statistics.median(speeds),
            "best_tokens_per_second": max(speeds),
            "median_ms": 1000 * statistics.median(each),
            "p95_ms": 1000 * percentile(each, 0.95),
            "peak_memory_bytes": max(done["peak_memory_bytes"] for done in self.rounds),
            "load_seconds": self.facts["load_seconds"],
            "agreement": self.facts["agreement"],
            "rounds": len(self.rounds),
            "repeated_rounds": self.repeated,
            "busy_rounds": self.busy,
        }


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest number that at least that share of them does not exceed."""
    return ascending[min(len(ascending) - 1, max(0, -int(-share * len(ascending) // 1) - 1))]


class Worker:
    """A process of `bench.worker`, warmed up: a model in one precision, and its work."""

    def __init__(self, settings: BenchSettings, precision: str, reference: Path, *, writes: bool) -> None:
        spec: dict[str, Any] = {"kind": settings.kind, "settings": dataclasses.asdict(settings), "precision": precision}
        spec |= {"reference": str(reference), "writes_reference": writes}
        command = [sys.executable, "-m", WORKER, json.dumps(spec)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._precision = precision
        self._meter = Meter([self._process.pid])
        try:
            self.facts = self._read()
        except BaseException:
            self.close()
            raise

    def round(self, threads: int | None = None) -> dict[str, Any]:
        """See `Measured`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(threads)}\n")
        self._process.stdin.flush()
        return self._read()

    def during(self, work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float | None]:
        """See `Measured`."""
        return self._meter.during(work)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise HandloomError(
                f"The process that measured {self._precision} ended with code {self._process.wait()}.",
                "If memory ran out, choose a smaller `model` or fewer values of `precision`; above stands what it "
                "printed.",
            )
        answer: dict[str, Any] = parse_json(line)
        if "problem" in answer:
            raise HandloomError(answer["problem"], answer["remedy"])
        return answer


@contextmanager
def workers(settings: BenchSettings, precisions: Sequence[str], folder: Path) -> Iterator[dict[str, Worker]]:
    """A process for each precision, started one after another; that of fp32 leaves the reference in `folder`."""
    with ExitStack() as stack:
        started = {}
        for precision in precisions:
            worker = Worker(settings, precision, folder / "reference", writes=precision == "fp32")
            stack.callback(worker.close)
            started[precision] = worker
        yield started
