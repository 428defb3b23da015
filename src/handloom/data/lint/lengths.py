"""How long the texts are: a number for each is kept, four bytes of it, and a histogram made at the end."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np

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

    @property
    def numbers(self) -> np.ndarray:
        """(n,) uint32, in the order in which they were added."""
        return np.array(self._all, dtype=np.uint32)

    def percentile(self, share: float) -> int:
        """The least length that at least `share` percent of the texts do not exceed."""
        ordered = np.sort(self.numbers)
        return int(ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)])

    def histogram(self) -> list[tuple[int, int, int]]:
        """Rows of (least length, greatest length, texts), from the shortest text to the longest without a gap.

        The steps are of one size where the longest text is at most ten times the shortest, and double otherwise.
        """
        numbers = self.numbers
        if not len(numbers):
            return []
        edges = _edges(int(numbers.min()), int(numbers.max()))
        counts, _ = np.histogram(numbers, bins=np.array(edges))
        return [(low, high - 1, int(n)) for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; without any text, only that there is none."""
        if not self._all:
            return {"texts": 0, "tokens": 0}
        numbers = self.numbers
        about = {"texts": len(numbers), "tokens": int(numbers.sum(dtype=np.int64)), "least": int(numbers.min())}
        about |= {f"p{share}": self.percentile(share) for share in PERCENTILES}
        rows = [{"from": low, "to": high, "texts": n} for low, high, n in self.histogram()]
        return {**about, "greatest": int(numbers.max()), "histogram": rows}


def _edges(least: int, greatest: int) -> list[int]:
    """Where rows begin, and where the last one ends; the last edge is above `greatest`."""
    if greatest <= 10 * max(least, 1):
        width = _round_up((greatest - least + 1) / _ROWS)
        first = least // width * width
        return list(range(first, greatest + width + 1, width))
    edges = [1 << max(0, least.bit_length() - 1) if least else 0]
    while edges[-1] <= greatest:
        edges.append(max(1, edges[-1] * 2))
    return edges


def _round_up(size: float) -> int:
    """1, 2 or 5 times a power of ten, at least `size`."""
    power = 10 ** max(0, math.floor(math.log10(max(size, 1))))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= size)
