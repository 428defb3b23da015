"""tune: every combination is measured, and the fastest that keeps its bound is kept."""

from __future__ import annotations

import dataclasses

import pytest

from handloom import tuned
from handloom.bench import tune
from handloom.bench.kinds import Decode
from handloom.hardware import profiles
from handloom.hardware.machine import machine


def row(kind, precision, threads, speed, ppl=None):
    agreement = None if ppl is None else {"relative_perplexity": ppl}
    values = {"kind": kind, "precision": precision, "threads": threads, "tokens_per_second": speed}
    return {**values, "agreement": agreement}


def test_the_fastest_that_keeps_its_bound():
    rows = [
        row("decode", "fp32", 2, 20.0),
        row("decode", "int8", 1, 80.0, 0.0004),
        row("decode", "int8", 2, 90.0, 0.0004),
        row("decode", "bf16", 2, 100.0, 0.006),
        row("prefill", "fp32", 1, 1000.0),
        row("train", "fp32", 2, 100.0),
        row("train", "bf16", 1, 300.0),
    ]
    found = tune.choose("m", rows)
    assert (found.precision, found.threads) == ("int8", 2)
    assert (found.training_precision, found.training_threads) == ("bf16", 1)
    assert found.measured == rows
    assert tune.choose("m", rows[:1]).training_threads is None


def test_int4_is_never_chosen(monkeypatch):
    monkeypatch.setattr("handloom.native.library.available", lambda: True)
    assert "int4" not in tune.precisions_of(Decode())
    assert tune.precisions_of(Decode())[0] == "fp32"


@pytest.mark.parametrize(
    ("affinity", "physical", "logical", "counts"),
    [(1, 1, 1, [1]), (2, 2, 2, [1, 2]), (8, 4, 8, [1, 4, 8]), (6, 12, 12, [1, 3, 6])],
)
def test_numbers_of_threads(affinity, physical, logical, counts):
    here = dataclasses.replace(machine(), affinity=affinity, physical_cores=physical, logical_cores=logical, quota=None)
    assert tune.thread_counts(here) == counts


class Fake:
    def __init__(self, speeds):
        self.facts = {"backend": "PyTorch", "load_seconds": 1.0, "agreement": {"relative_perplexity": 0.0}}
        self._speeds = speeds

    def round(self, threads=None):
        return {"tokens": self._speeds[threads], "seconds": 1.0, "each": [1.0], "peak_memory_bytes": 1}

    def during(self, work):
        return work(), 0.0


def test_a_sweep_measures_each_number_of_threads_in_one_process():
    rows = tune.sweep("decode", {"fp32": Fake({1: 5, 2: 9}), "int8": Fake({1: 7, 2: 8})}, [1, 2], rounds=2)
    found = {(one["precision"], one["threads"]): one["tokens_per_second"] for one in rows}
    assert found == {("fp32", 1): 5, ("fp32", 2): 9, ("int8", 1): 7, ("int8", 2): 8}
    assert tune.choose("m", rows).precision == "fp32"


def test_a_real_process_measures_a_preset_and_its_profile_is_kept(monkeypatch):
    monkeypatch.setattr(tune, "precisions_of", lambda settings: ["fp32"])
    monkeypatch.setattr("handloom.native.library.available", lambda: None)
    work = {"decode": Decode(prompt_tokens=2, new_tokens=2, rounds=1, least_seconds=0)}
    notes = []
    profile = tune.tune("nano", notes.append, work=work)
    assert notes == []
    name, context = tuned.identity_of("nano")
    assert context == 128
    assert profiles.find(name) == profile
    assert {one["precision"] for one in profile.measured} == {"fp32"}
