"""Finds the fastest threads and precision for a model on this machine, and keeps them as a profile."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from handloom import runtime
from handloom.bench.kinds import BenchSettings, Decode, Prefill, Train
from handloom.bench.rounds import Measured, Row, workers
from handloom.hardware import profiles
from handloom.hardware.machine import Machine, machine
from handloom.hardware.profiles import Profile
from handloom.native import library as native
from handloom.quantization.precision import QUALITY_BOUNDS
from handloom.tuned import identity_of

PRECISIONS = ("fp32", *(name for name, percent in QUALITY_BOUNDS.items() if percent <= 0.5))
"""Those that may be chosen, as for `auto`: the bound of int4 is wider."""
_SHORT: dict[str, Any] = {"rounds": 3, "least_seconds": 0.5}
WORK = {
    "decode": Decode(new_tokens=32, **_SHORT),
    "prefill": Prefill(prompt_tokens=256, **_SHORT),
    "train": Train(rounds=2, least_seconds=0),
}
"""What is measured of each combination."""


def tune(
    model: str,
    on_note: Callable[[str], None],
    on_row: Callable[[str], None] = lambda row: None,
    work: Mapping[str, BenchSettings] = WORK,
) -> Profile:
    """Measure every precision with every number of threads; keep the fastest, and return it.

    Raises HandloomError for a model that is not there, or a cache that cannot be written.
    """
    name, context = identity_of(model, on_note)
    here, rows = machine(), list[dict[str, Any]]()
    for kind, settings in work.items():
        fitted = dataclasses.replace(settings, model=model).fitted(context)
        on_row(kind)
        with tempfile.TemporaryDirectory() as folder, workers(fitted, precisions_of(fitted), Path(folder)) as started:
            rows += sweep(kind, started, thread_counts(here), rounds=fitted.rounds, on_row=on_row)
    profile = choose(model, rows)
    profiles.keep(name, profile)
    return profile


def precisions_of(settings: BenchSettings) -> list[str]:
    """Those that this machine has and that may be chosen for the work; without C kernels packed ones are slow."""
    has = [name for name in PRECISIONS if name in settings.precisions]
    has = [name for name in has if name != "bf16" or runtime.has_native_bf16()]
    return [name for name in has if native.available() or name in ("fp32", "bf16")]


def thread_counts(here: Machine) -> list[int]:
    """Numbers of threads worth a try: one, half of the cores, all of them without and with hyper-threads."""
    return sorted({1, max(1, here.granted // 2), here.granted_physical, here.granted})


def sweep(
    kind: str,
    started: Mapping[str, Measured],
    threads: list[int],
    rounds: int,
    on_row: Callable[[str], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """The speed of each precision with each number of threads; rounds take turns."""
    rows = {(name, count): Row(name, worker.facts) for name, worker in started.items() for count in threads}
    for _ in range(rounds):
        for (name, count), row in rows.items():
            on_row(f"{kind}: {name}, {count} threads")
            row.measure(started[name], threads=count)
    return [{"kind": kind, "threads": count, **row.to_dict()} for (_, count), row in rows.items()]


def choose(model: str, rows: list[dict[str, Any]]) -> Profile:
    """The profile of what was measured: decoding decides for generation, since most time goes there."""
    decode = max((row for row in rows if row["kind"] == "decode" and keeps_bound(row)), key=_speed)
    training = max((row for row in rows if row["kind"] == "train"), key=_speed, default=None)
    return Profile(
        model=model,
        threads=decode["threads"],
        precision=decode["precision"],
        training_threads=training["threads"] if training else None,
        training_precision=training["precision"] if training else None,
        measured=rows,
    )


def keeps_bound(row: Mapping[str, Any]) -> bool:
    """Whether a precision is fp32, or keeps the perplexity of this model within its bound."""
    grown = (row["agreement"] or {}).get("relative_perplexity", 1.0)
    return row["precision"] == "fp32" or 100 * grown <= QUALITY_BOUNDS[row["precision"]]


def _speed(row: Mapping[str, Any]) -> float:
    return float(row["tokens_per_second"])
