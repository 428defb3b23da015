"""Positions of the marks of a plot, in the units of an SVG's viewBox; the page's template draws them.

Plots are as wide as a phone, so that their letters are as large there as those around them. Knows no colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from handloom.evaluation.calibration import Bin
from handloom.evaluation.scoring import Z_95, Estimate

WIDTH = 340
_LEFT, _RIGHT = 8.0, 332.0
_ROW = 38.0
_LETTERS = 30
_SQUARE = 240.0
_EDGE = 40.0


class Tick(NamedTuple):
    """A line across the plot, and its value."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A dot with its error bar from `low` to `high`."""

    x: float
    y: float
    low: float
    high: float
    shown: str
    name: str = ""
    label: str = ""
    """The name, shortened to the room there is: of a long path the end, where it differs from others."""
    radius: float = 4.5


@dataclass(frozen=True)
class DotPlot:
    """One dot a row, above a common axis."""

    height: float
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class ReliabilityDiagram:
    """Confidence to the right, accuracy upwards, the diagonal where both agree."""

    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    size: float = _SQUARE

    @staticmethod
    def up(ratio: float) -> float:
        """Where a ratio lies on the axis that goes upwards."""
        return _SQUARE - _EDGE - ratio * (_SQUARE - _EDGE - 12)

    @staticmethod
    def across(ratio: float) -> float:
        """Where it lies on the axis that goes to the right."""
        return _EDGE + ratio * (_SQUARE - _EDGE - 12)


def dot_plot(rows: Sequence[tuple[str, Estimate]], digits: int = 3) -> DotPlot:
    """Estimates of one quantity by name, each with 1.96 standard errors to both sides."""
    bars = [(name, each.value, Z_95 * (each.standard_error or 0.0)) for name, each in rows]
    low, high = min(value - bar for _, value, bar in bars), max(value + bar for _, value, bar in bars)
    room = (high - low or abs(high) or 1.0) * 0.06
    low, high = low - room, high + room

    def place(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT), 2)

    marks = tuple(
        Mark(
            x=place(value),
            y=_ROW * number + 26,
            low=place(value - bar),
            high=place(value + bar),
            shown=f"{value:.{digits}f}" + (f" ± {bar:.{digits}f}" if bar else ""),
            name=name,
            label=name if len(name) <= _LETTERS else "…" + name[1 - _LETTERS :],
        )
        for number, (name, value, bar) in enumerate(bars)
    )
    ticks = tuple(Tick(place(value), label) for value, label in _round_numbers(low, high))
    return DotPlot(_ROW * len(rows) + 24, marks, ticks)


def reliability_diagram(bins: Sequence[Bin]) -> ReliabilityDiagram:
    """Accuracy in each bin of confidence; larger points stand for more tokens."""
    across, up = ReliabilityDiagram.across, ReliabilityDiagram.up
    total = sum(each.tokens for each in bins)
    marks = []
    for each in bins:
        if each.confidence is None or each.accuracy is None or each.standard_error is None:
            continue
        bar = Z_95 * each.standard_error
        marks.append(
            Mark(
                x=round(across(each.confidence), 2),
                y=round(up(each.accuracy), 2),
                low=round(up(max(0.0, each.accuracy - bar)), 2),
                high=round(up(min(1.0, each.accuracy + bar)), 2),
                shown=f"{each.tokens:,} tokens: confidence {each.confidence:.0%}, accuracy {each.accuracy:.0%}",
                radius=round(2 + 5 * math.sqrt(each.tokens / total), 2),
            )
        )
    return ReliabilityDiagram(tuple(marks), tuple(Tick(across(ratio), f"{ratio:.0%}") for ratio in (0.0, 0.5, 1.0)))


def _round_numbers(low: float, high: float) -> list[tuple[float, str]]:
    """Two to five round numbers between two others, with their labels."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    numbers = [(first + i) * step for i in range(6)]
    return [(number, f"{number:.{digits}f}") for number in numbers if number <= high + step * 1e-9]
