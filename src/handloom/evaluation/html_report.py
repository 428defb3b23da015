"""A comparison as one HTML page that needs nothing from elsewhere: no script, no font, no picture.

What another run would not repeat is drawn in elements with the attribute data-time; without those, the pages of two
runs are the same to the byte. Positions in plots are in the units of an SVG's viewBox. Plots are as wide as a phone, so
that their letters are as large there as those around them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import pairwise
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from handloom.console import is_visible
from handloom.evaluation.calibration import Bin
from handloom.evaluation.report import ModelResult, Report
from handloom.evaluation.samples import Sample, Span
from handloom.evaluation.scoring import Z_95, Estimate
from handloom.evaluation.text_metrics import copied_ranges

LEVELS = (0.5, 1.5, 3.0, 5.0, 8.0)
"""NLL in nats at which the shading becomes one step darker."""
_LEGEND = ("more than 60 %", "22 to 60 %", "5 to 22 %", "0.7 to 5 %", "0.03 to 0.7 %", "less")
"""The probability of a token of each shade."""
WIDTH = 340
_LEFT, _RIGHT, _ROW = 8.0, 332.0, 38.0  # of dot plots
_LETTERS = 30  # of a name in them
_SQUARE, _EDGE = 240.0, 40.0  # of reliability diagrams


def render(report: Report) -> str:
    """The page as HTML; texts of models are escaped everywhere."""
    environment = Environment(
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # not what is markup already
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(share=_percent, mb=lambda count: f"{count / 1e6:,.1f}\u00a0MB")
    source = resources.files("handloom.evaluation").joinpath("page.html.j2").read_text(encoding="utf-8")
    *most, last = [model.name for model in report.models]
    return environment.from_string(source).render(
        report=report,
        models=report.models,
        title=f"{', '.join(most)} and {last}",
        held_out_plot=dot_plot([(each.name, each.held_out.bits_per_byte) for each in report.models]),
        forgetting_plots=[
            dot_plot(
                [
                    (f"before: {each.base}", each.before.bits_per_byte),
                    (f"after: {each.model}", each.after.bits_per_byte),
                ]
            )
            for each in report.forgetting
        ],
        diagrams={each.name: reliability_diagram(each.calibration.bins) for each in report.models},
        up=up,
        texts={each.name: _by_prompt(each, report.n) for each in report.models},
        excerpts={each.name: [list(shaded(one)) for one in each.excerpts] for each in report.models},
        legend=list(enumerate(_LEGEND)),
        z_95=Z_95,
        plot_width=WIDTH,
    )


def visible(text: str) -> str:
    """The same text with a sign for each character that is invisible, or that would turn the page around."""

    def sign(c: str) -> str:
        return c if is_visible(c) else chr(0x2400 + ord(c)) if ord(c) < 32 else "\ufffd"

    return text if text.isprintable() else "".join(map(sign, text))


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


# Texts


class Shaded(NamedTuple):
    """Some text of one shade; empty for the end of the text."""

    text: str
    level: int
    nats: float
    copied: bool


def shaded(spans: tuple[Span, ...], copied: Sequence[tuple[int, int]] = ()) -> Iterator[Shaded]:
    """Spans with their shade, cut where a range of copied characters begins or ends."""
    edges = sorted({edge for each in copied for edge in each})
    for span in spans:
        level, stop = sum(span.nats >= limit for limit in LEVELS), span.start + len(span.text)
        cuts = [span.start, *(edge for edge in edges if span.start < edge < stop), stop]
        for begin, end in pairwise(cuts):
            is_copied = any(low <= begin and end <= high for low, high in copied)
            yield Shaded(span.text[begin - span.start : end - span.start], level, span.nats, is_copied)


def _by_prompt(model: ModelResult, n: int) -> list[list[dict[str, Any]]]:
    """For each prompt the model's samples."""

    def shown(sample: Sample) -> dict[str, Any]:
        ranges = copied_ranges(sample.text, sample.copied) if sample.copied else []
        return {"pieces": list(shaded(sample.spans, ranges)), "sample": sample}

    return [[shown(each) for each in model.samples[at : at + n]] for at in range(0, len(model.samples), n)]


# Plots


class Tick(NamedTuple):
    """A line across the plot, and its value."""

    at: float
    label: str


class Mark(NamedTuple):
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


class Plot(NamedTuple):
    """What is drawn."""

    height: float
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]


def dot_plot(rows: Sequence[tuple[str, Estimate]], digits: int = 3) -> Plot:
    """One dot a row above a common axis: estimates of one quantity by name, with 1.96 standard errors to both sides."""
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
    return Plot(_ROW * len(rows) + 24, marks, ticks)


def reliability_diagram(bins: Sequence[Bin]) -> Plot:
    """Confidence to the right, accuracy in each of its bins upwards; larger points stand for more tokens."""
    total = sum(each.tokens for each in bins)
    marks = []
    for each in bins:
        if each.confidence is None or each.accuracy is None or each.standard_error is None:
            continue
        bar = Z_95 * each.standard_error
        marks.append(
            Mark(
                x=round(_across(each.confidence), 2),
                y=round(up(each.accuracy), 2),
                low=round(up(max(0.0, each.accuracy - bar)), 2),
                high=round(up(min(1.0, each.accuracy + bar)), 2),
                shown=f"{each.tokens:,} tokens: confidence {each.confidence:.0%}, accuracy {each.accuracy:.0%}",
                radius=round(2 + 5 * math.sqrt(each.tokens / total), 2),
            )
        )
    return Plot(_SQUARE, tuple(marks), tuple(Tick(_across(ratio), f"{ratio:.0%}") for ratio in (0.0, 0.5, 1.0)))


def up(ratio: float) -> float:
    """Where a ratio lies on the axis of a reliability diagram that goes upwards."""
    return _SQUARE - _EDGE - ratio * (_SQUARE - _EDGE - 12)


def _across(ratio: float) -> float:
    return _EDGE + ratio * (_SQUARE - _EDGE - 12)


def _round_numbers(low: float, high: float) -> list[tuple[float, str]]:
    """Two to five round numbers between two others, with their labels."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    numbers = [(first + i) * step for i in range(6)]
    return [(number, f"{number:.{digits}f}") for number in numbers if number <= high + step * 1e-9]
