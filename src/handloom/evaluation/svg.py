"""Where the marks of a plot go, in the units of an SVG's viewBox. The page's template draws them.

Plots are as wide as a phone, so that their letters are as large there as those around them. Knows no colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from handloom.evaluation.bits_per_byte import Estimate
from handloom.evaluation.calibration import Bin

WIDTH = 340
_LEFT, _RIGHT = 8.0, 332.0
_ROW = 38.0
_LETTERS = 30
_SQUARE = 240.0
_EDGE = 40.0
Z_95 = 1.96
"""Standard errors to either side in which a mean lies 19 times out of 20."""


@dataclass(frozen=True)
class Tick:
    """A line across the plot, and what it stands for."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A dot with its error bar."""

    whole: str
    """Whose it is."""
    label: str
    """The same, as far as there is room; of a long path the end, where it differs from others."""
    y: float
    x: float
    low: float
    high: float
    shown: str


@dataclass(frozen=True)
class Dots:
    """One dot a row, above a common axis."""

    height: float
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Point:
    """A bin of a reliability diagram."""

    x: float
    y: float
    low: float
    high: float
    radius: float
    shown: str


@dataclass(frozen=True)
class Diagram:
    """A reliability diagram: confidence to the right, accuracy upwards, the diagonal where both agree."""

    size: float
    edge: float
    points: tuple[Point, ...]
    ticks: tuple[Tick, ...]

    def up(self, share: float) -> float:
        """Where a share lies on the axis that goes upwards."""
        return _up(share)


def dots(rows: Sequence[tuple[str, Estimate]], digits: int = 3) -> Dots:
    """Estimates of the same thing, each with 1.96 standard errors to both sides."""
    spreads = [Z_95 * (estimate.standard_error or 0.0) for _, estimate in rows]
    low = min(each.value - spread for (_, each), spread in zip(rows, spreads, strict=True))
    high = max(each.value + spread for (_, each), spread in zip(rows, spreads, strict=True))
    room = (high - low or abs(high) or 1.0) * 0.06
    low, high = low - room, high + room

    def place(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT), 2)

    marks = []
    for number, ((label, estimate), spread) in enumerate(zip(rows, spreads, strict=True)):
        value = estimate.value
        shown = f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread else "")
        y = _ROW * number + 26
        short = label if len(label) <= _LETTERS else "…" + label[1 - _LETTERS :]
        marks.append(Mark(label, short, y, place(value), place(value - spread), place(value + spread), shown))
    ticks = tuple(Tick(place(value), label) for value, label in _round_numbers(low, high))
    return Dots(_ROW * len(rows) + 24, tuple(marks), ticks)


def diagram(bins: Sequence[Bin]) -> Diagram:
    """How often a model was right, where it was how sure. Larger points stand for more tokens."""
    total = sum(each.tokens for each in bins)
    points = []
    for each in bins:
        if each.confidence is None or each.accuracy is None or each.standard_error is None:
            continue
        spread = Z_95 * each.standard_error
        low, high = max(0.0, each.accuracy - spread), min(1.0, each.accuracy + spread)
        shown = f"{each.tokens:,} tokens: sure by {each.confidence:.0%}, right in {each.accuracy:.0%}"
        points.append(
            Point(
                round(_across(each.confidence), 2),
                round(_up(each.accuracy), 2),
                round(_up(low), 2),
                round(_up(high), 2),
                round(2 + 5 * math.sqrt(each.tokens / total), 2),
                shown,
            )
        )
    ticks = tuple(Tick(_across(share), f"{share:.0%}") for share in (0.0, 0.5, 1.0))
    return Diagram(_SQUARE, _EDGE, tuple(points), ticks)


def _across(share: float) -> float:
    return _EDGE + share * (_SQUARE - _EDGE - 12)


def _up(share: float) -> float:
    return _SQUARE - _EDGE - share * (_SQUARE - _EDGE - 12)


def _round_numbers(low: float, high: float) -> list[tuple[float, str]]:
    """Two to five round numbers between two others, with their labels."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    numbers = [(first + i) * step for i in range(6)]
    return [(number, f"{number:.{digits}f}") for number in numbers if number <= high + step * 1e-9]
