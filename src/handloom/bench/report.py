"""A measurement from beginning to end: which rows there are, their rounds, and the limits of the machine."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from handloom import runtime
from handloom.bench.kinds import BenchSettings, Tokenize, Train
from handloom.bench.rounds import Measured, Row, workers
from handloom.hardware import speed
from handloom.hardware.machine import Machine, machine
from handloom.loading import find_model
from handloom.model.config import preset
from handloom.model.summary import parameter_count
from handloom.native import library as native
from handloom.quantization.precision import resolve_precision
from handloom.tuned import is_preset

_MATRIX_TYPE = {"fp32": "fp32", "fp16": "fp32", "bf16": "bf16", "int8": "int8", "int4": "int8"}
"""The arithmetic of a precision: fp16 is a format of weights, computed in float32."""


def run(
    settings: BenchSettings, on_note: Callable[[str], None], on_round: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """Measure, and return the report: values for JSON.

    `on_note` is called with what is left out, `on_round` with each precision whose turn comes.

    Raises:
        HandloomError: for a model that is not there, or a precision that this machine does not have.
    """
    config = preset(settings.model) if is_preset(settings.model) else find_model(settings.model, on_note).config
    fitted = settings.fitted(config.context_length)
    if fitted != settings:
        on_note(f"The model's context is {config.context_length} tokens, so the work is shorter.")
    precisions = rows_of(settings)
    threads = runtime.set_num_threads(settings.threads)
    settings = dataclasses.replace(fitted, threads=threads)
    on_round("start")
    here, limits, rows = machine(), Limits(settings.limit, precisions), list[Row]()
    groups = at_once(precisions, parameter_count(config), here.available_bytes)
    if len(groups) > 1:
        on_note("There is not the memory for all precisions at once: they are measured one after another.")
    with tempfile.TemporaryDirectory(prefix="handloom-bench-") as folder:
        for group in groups:
            with workers(settings, group, Path(folder)) as started:
                rows += measure(started, settings.rounds, on_round, lambda: limits.measure(here))
    return report(settings, rows, here, limits.medians())


def at_once(precisions: list[str], parameters: int, available_bytes: int) -> list[list[str]]:
    """The precisions whose processes run together: all, or one after another where memory is short.

    Counted are float32 weights in each, and as much again for what comes with them.
    """
    needed = len(precisions) * (parameters * 4 * 2 + (300 << 20))
    return [precisions] if needed < available_bytes else [[name] for name in precisions]


def rows_of(settings: BenchSettings) -> list[str]:
    """fp32, which all others are compared with, and those that were asked for, or that this machine has.

    Raises ConfigError for one that it does not have.
    """
    for name in settings.precision:
        resolve_precision(name)
    has = [name for name in settings.precisions if name != "bf16" or runtime.has_native_bf16()]
    if not native.available():
        has = [name for name in has if name in ("fp32", "bf16")]
    chosen = settings.precision or has
    return ["fp32", *(name for name in settings.precisions if name in chosen and name != "fp32")]


def measure(
    started: Mapping[str, Measured],
    rounds: int,
    on_round: Callable[[str], None] = lambda name: None,
    between: Callable[[], None] = lambda: None,
) -> list[Row]:
    """The rounds of all rows, which take turns; `between` is called before each turn of all."""
    rows = [Row(name, worker.facts) for name, worker in started.items()]
    for _ in range(rounds):
        between()
        for row in rows:
            on_round(row.name)
            row.measure(started[row.name])
    return rows


class Limits:
    """Measures what bounds the speed: the read bandwidth, or the matrix speed of the types that the rows compute in."""

    def __init__(self, limit: str, precisions: Iterable[str]) -> None:
        self._types = sorted({_MATRIX_TYPE[name] for name in precisions}) if limit == "matrix speed" else []
        self._found: dict[str, list[float]] = {}

    def measure(self, here: Machine) -> None:
        """Once more; the median of all counts."""
        if not self._types:
            self._found.setdefault("read_bandwidth", []).append(speed.read_bandwidth(here.cache_bytes))
        for name in self._types:
            if (found := speed.matrix_speed(name)) is not None:
                self._found.setdefault(f"matrix_speed_{name}", []).append(found)

    def medians(self) -> dict[str, float]:
        """`read_bandwidth` in bytes a second, `matrix_speed_fp32` and so on in operations a second."""
        return {name: statistics.median(found) for name, found in self._found.items()}


def report(settings: BenchSettings, rows: list[Row], here: Machine, limits: dict[str, float]) -> dict[str, Any]:
    """Everything about a measurement, for JSON."""
    shown = []
    for row in rows:
        values, facts = row.to_dict(), row.facts
        arithmetic = row.name if isinstance(settings, Train) else _MATRIX_TYPE[row.name]
        limit = limits.get("read_bandwidth") or limits.get(f"matrix_speed_{arithmetic}")
        needed = facts.get("bytes_per_token") or facts.get("operations_per_token")
        values["share_of_limit"] = values["tokens_per_second"] * needed / limit if limit and needed else None
        shown.append(values)
    found = described(settings, here, settings.threads)
    return {
        **found,
        "parameters": rows[0].facts["parameters"],
        "limit": settings.limit,
        "limits": limits,
        "rows": shown,
    }


def described(settings: BenchSettings | Tokenize, here: Machine, threads: int | None) -> dict[str, Any]:
    """What every report begins with: the work and the machine."""
    shown = {name: value for name, value in dataclasses.asdict(settings).items() if name != "precision"}
    return {
        "kind": settings.kind,
        "weights": "random" if is_preset(settings.model) else "from disk",
        "settings": {**shown, "threads": threads},
        "machine": {**dataclasses.asdict(here), **versions()},
    }


def versions() -> dict[str, str]:
    """Of what computes; the instruction set that torch chose is not the list that the processor has."""
    found = runtime.versions()
    return {
        **{name: found[name] for name in ("handloom", "python", "torch")},
        "instructions_of_torch": found["instructions"],
    }
