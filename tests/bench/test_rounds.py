"""Rounds: those among which others used the machine are repeated and counted; what a row says of them."""

from __future__ import annotations

import pytest

from handloom.bench.report import measure
from handloom.bench.rounds import ATTEMPTS, percentile


class Fake:
    """A worker whose rounds take one second each; `others` are the cores that others use in each."""

    def __init__(self, *others, tokens=10):
        self.facts = {"backend": "PyTorch", "load_seconds": 1.0, "agreement": None}
        self._others, self._tokens, self.done = iter(others), tokens, 0

    def round(self, threads=None):
        self.done += 1
        return {"tokens": self._tokens, "seconds": 1.0, "each": [0.1] * 9 + [0.3], "peak_memory_bytes": self.done}

    def during(self, work):
        return work(), next(self._others)


def test_a_busy_round_is_repeated_and_counted():
    worker = Fake(0.0, 0.9, 0.9, 0.1, None)
    (row,) = measure({"int8": worker}, 3)
    assert worker.done == 5
    found = row.to_dict()
    assert (found["rounds"], found["repeated_rounds"], found["busy_rounds"]) == (3, 2, 0)
    assert found["tokens_per_second"] == 10
    assert found["peak_memory_bytes"] == 5


def test_where_no_quiet_moment_comes_the_quietest_round_counts_as_busy():
    worker = Fake(0.9, 0.4, 0.8, 0.7)
    (row,) = measure({"int8": worker}, 1)
    assert worker.done == ATTEMPTS
    assert row.rounds[0]["peak_memory_bytes"] == 2
    assert (row.repeated, row.busy) == (ATTEMPTS - 1, 1)


def test_rows_take_turns():
    turns = []
    measure({"a": Fake(0, 0), "b": Fake(0, 0)}, 2, turns.append, lambda: turns.append("limit"))
    assert turns == ["limit", "a", "b", "limit", "a", "b"]


@pytest.mark.parametrize(("share", "expected"), [(0.95, 95), (0.5, 50), (1, 100), (0.001, 1)])
def test_percentiles_of_a_hundred(share, expected):
    assert percentile(range(1, 101), share) == expected
    assert percentile([7.0], share) == 7.0
