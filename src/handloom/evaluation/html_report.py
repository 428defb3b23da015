"""A comparison as one HTML page that needs nothing from elsewhere: no script, no font, no picture.

What another run would not repeat is drawn in elements with the attribute data-time; without those, the pages of two
runs are the same to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import Any

from jinja2 import Environment, StrictUndefined

from handloom.console import is_visible
from handloom.evaluation import svg
from handloom.evaluation.memorization import copied_ranges
from handloom.evaluation.report import ModelResult, Report
from handloom.evaluation.samples import Sample, Span
from handloom.evaluation.scoring import Z_95

LEVELS = (0.5, 1.5, 3.0, 5.0, 8.0)
"""NLL in nats at which the shading becomes one step darker."""
_LEGEND = ("more than 60 %", "22 to 60 %", "5 to 22 %", "0.7 to 5 %", "0.03 to 0.7 %", "less")
"""The probability of a token of each shade."""


@dataclass(frozen=True)
class Shaded:
    """Some text of one shade."""

    text: str
    level: int
    nats: float
    copied: bool = False
    end: bool = False
    """Whether it stands for the end of the text."""


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
    environment.filters.update(share=_percent, mb=_megabytes, signed=_signed)
    source = resources.files("handloom.evaluation").joinpath("page.html.j2").read_text(encoding="utf-8")
    *most, last = [model.name for model in report.models]
    return environment.from_string(source).render(
        report=report,
        models=report.models,
        title=f"{', '.join(most)} and {last}",
        held_out_plot=svg.dot_plot([(each.name, each.held_out.bits_per_byte) for each in report.models]),
        forgetting_plots=[
            svg.dot_plot(
                [
                    (f"before: {each.base}", each.before.bits_per_byte),
                    (f"after: {each.model}", each.after.bits_per_byte),
                ]
            )
            for each in report.forgetting
        ],
        diagrams={each.name: svg.reliability_diagram(each.calibration.bins) for each in report.models},
        texts={each.name: _by_prompt(each, report.n) for each in report.models},
        excerpts={each.name: [list(shaded(one)) for one in each.excerpts] for each in report.models},
        legend=list(enumerate(_LEGEND)),
        z_95=Z_95,
        plot_width=svg.WIDTH,
    )


def shaded(spans: tuple[Span, ...], copied: list[tuple[int, int]] | None = None) -> Iterator[Shaded]:
    """Spans with their shade, cut where a range of copied characters begins or ends."""
    edges = sorted({edge for each in copied or () for edge in each})
    for span in spans:
        level = sum(span.nats >= limit for limit in LEVELS)
        if not span.text:
            yield Shaded("", level, span.nats, end=True)
            continue
        stop = span.start + len(span.text)
        cuts = [span.start, *(edge for edge in edges if span.start < edge < stop), stop]
        for begin, end in pairwise(cuts):
            is_copied = any(low <= begin and end <= high for low, high in copied or ())
            yield Shaded(span.text[begin - span.start : end - span.start], level, span.nats, copied=is_copied)


def visible(text: str) -> str:
    """The same text with a sign for each character that is invisible, or that would turn the page around."""
    return text if text.isprintable() else "".join(map(_sign, text))


def _sign(c: str) -> str:
    if is_visible(c):
        return c
    return chr(0x2400 + ord(c)) if ord(c) < 32 else "\ufffd"


def _by_prompt(model: ModelResult, n: int) -> list[list[dict[str, Any]]]:
    """For each prompt the model's samples."""
    return [[_shown(each) for each in model.samples[at : at + n]] for at in range(0, len(model.samples), n)]


def _shown(sample: Sample) -> dict[str, Any]:
    ranges = copied_ranges(sample.text, sample.copied) if sample.copied else []
    return {"pieces": list(shaded(sample.spans, ranges)), "sample": sample}


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f}\u00a0MB"
