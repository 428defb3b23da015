"""A comparison as one HTML page that needs nothing from elsewhere: no script, no font, no picture.

Everything that another run would not repeat is drawn in elements with the attribute data-time; without those, the
pages of two runs are the same to the byte.
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
from handloom.evaluation.memorization import covered
from handloom.evaluation.report import ModelResult, Report
from handloom.evaluation.samples import Sample
from handloom.evaluation.spans import Span

LEVELS = (0.5, 1.5, 3.0, 5.0, 8.0)
"""Nats at which the shading becomes one step darker."""


@dataclass(frozen=True)
class TokenSpan:
    """Some text of one shade."""

    text: str
    level: int
    nats: float
    copied: bool
    end: bool = False
    """Whether it stands for the end of the text."""


def render(report: Report) -> str:
    """The page.

    Returns:
        HTML. Texts of models are escaped wherever they stand.
    """
    environment = Environment(
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # not what is markup already
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(share=_share, mb=_megabytes, signed=_signed)
    source = resources.files("handloom.evaluation").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        models=report.models,
        title=_title(report.models),
        held_out_plot=svg.dots([(each.name, each.held_out.bits_per_byte) for each in report.models]),
        forgot_plots=[
            svg.dots(
                [
                    (f"before: {each.base}", each.before.bits_per_byte),
                    (f"after: {each.model}", each.after.bits_per_byte),
                ]
            )
            for each in report.forgot
        ],
        diagrams={each.name: svg.diagram(each.calibration.bins) for each in report.models},
        texts={each.name: _by_prompt(each, report) for each in report.models},
        samples={each.name: [list(inked(sample)) for sample in each.samples] for each in report.models},
        legend=_legend(),
        sure=svg.Z_95,
        plot_width=svg.WIDTH,
    )


def inked(spans: tuple[Span, ...], ranges: list[tuple[int, int]] | None = None) -> Iterator[TokenSpan]:
    """Spans with their shade, cut where what was copied begins and ends."""
    edges = sorted({edge for each in ranges or () for edge in each})
    for span in spans:
        level = sum(span.nats >= limit for limit in LEVELS)
        if not span.text:
            yield TokenSpan("", level, span.nats, False, end=True)
            continue
        stop = span.start + len(span.text)
        cuts = [span.start, *(edge for edge in edges if span.start < edge < stop), stop]
        for begin, end in pairwise(cuts):
            copied = any(low <= begin and end <= high for low, high in ranges or ())
            yield TokenSpan(span.text[begin - span.start : end - span.start], level, span.nats, copied)


def visible(text: str) -> str:
    """The same text with a sign for each character that is none, or that would turn the page around."""
    return text if text.isprintable() else "".join(map(_sign, text))


def _sign(c: str) -> str:
    if is_visible(c):
        return c
    return chr(0x2400 + ord(c)) if ord(c) < 32 else "\ufffd"


def _by_prompt(model: ModelResult, report: Report) -> list[list[dict[str, Any]]]:
    """For each prompt the model's texts."""
    return [
        [_shown(each) for each in model.written[at : at + report.n]] for at in range(0, len(model.written), report.n)
    ]


def _shown(one: Sample) -> dict[str, Any]:
    ranges = covered(one.text, one.copied) if one.copied else []
    return {"ink": list(inked(one.spans, ranges)), "written": one}


def _title(models: tuple[ModelResult, ...]) -> str:
    *most, last = [model.name for model in models]
    return f"{', '.join(most)} and {last}"


def _legend() -> list[tuple[int, str]]:
    """Each shade, and what chance the model gave what came."""
    return [
        (0, "more than 60 %"),
        (1, "22 to 60 %"),
        (2, "5 to 22 %"),
        (3, "0.7 to 5 %"),
        (4, "0.03 to 0.7 %"),
        (5, "less"),
    ]


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _share(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f}\u00a0MB"
