"""Lengths of texts in tokens: four bytes each, and a histogram made at the end."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from typing import Any

PERCENTILES = (50, 90, 99)
_ROWS = 10  # of a histogram with steps of one size


class Lengths:
    """Lengths of texts in tokens."""

    def __init__(self) -> None:
        self._all = array("I")

    def add(self, length: int) -> None:
        """One more text."""
        self._all.append(length)

    def __len__(self) -> int:
        return len(self._all)

    def histogram(self) -> list[tuple[int, int, int]]:
        """Rows of (least length, greatest length, texts), from the shortest text to the longest without a gap.

        The steps are of one size where the longest text is at most ten times the shortest, and double otherwise.
        """
        ordered = sorted(self._all)
        edges = _edges(ordered[0], ordered[-1]) if ordered else []
        below = [bisect_left(ordered, edge) for edge in edges]
        return [(edges[n], edges[n + 1] - 1, below[n + 1] - below[n]) for n in range(len(edges) - 1)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; without any text, only that there is none."""
        ordered = sorted(self._all)
        if not ordered:
            return {"texts": 0, "tokens": 0}
        values: dict[str, Any] = {"texts": len(ordered), "tokens": sum(ordered), "least": ordered[0]}
        for percent in PERCENTILES:  # the least length that at least so many texts do not exceed
            values[f"p{percent}"] = ordered[math.ceil(len(ordered) * percent / 100) - 1]
        rows = [{"from": low, "to": high, "texts": n} for low, high, n in self.histogram()]
        return {**values, "greatest": ordered[-1], "histogram": rows}


def _edges(least: int, greatest: int) -> list[int]:
    """Where rows begin, and where the last one ends; the last edge is above `greatest`."""
    if greatest <= 10 * max(least, 1):
        step = (greatest - least + 1) / _ROWS
        power = 10 ** max(0, math.floor(math.log10(max(step, 1))))
        width = next(power * times for times in (1, 2, 5, 10) if power * times >= step)
        return list(range(least // width * width, greatest + width + 1, width))
    edges = [1 << max(0, least.bit_length() - 1) if least else 0]
    while edges[-1] <= greatest:
        edges.append(max(1, edges[-1] * 2))
    return edges
