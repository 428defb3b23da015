"""What `handloom compare` prints: measures down, models across, four models at a time."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.table import Table

from handloom.console import new_console
from handloom.errors import worded
from handloom.evaluation.report import ModelResult, Report
from handloom.evaluation.scoring import Z_95, Estimate

_WIDTH = 80
_AT_ONCE = 4
_NARROW = 12  # characters in a column where there are four; longer names are broken where a folder ends
Cell = Callable[[ModelResult], str]


def print_report(report: Report) -> None:
    """Print the notes and the numbers of a comparison."""
    console = new_console(width=_WIDTH)
    for at in range(0, len(report.models), _AT_ONCE):
        models = report.models[at : at + _AT_ONCE]
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column("", no_wrap=True)
        for model in models:
            name = model.name if len(model.name) <= _NARROW else model.name.replace("/", "/\n")
            table.add_column(name, justify="right", overflow="fold")
        for label, cell in _rows(report):
            table.add_row(label, *(cell(model) for model in models))
        console.print(table)
    for each in report.forgetting:
        error = each.difference.standard_error
        spread = f" ± {Z_95 * error:.3f}" if error is not None else ""
        console.print(
            f"{each.model} against {each.base} on general text: {each.verdict} "
            f"({each.difference.value:+.3f}{spread} bits per byte)."
        )
    console.print("± is 1.96 standard errors.")
    for note in report.notes:
        console.print(f"Note: {worded(note)}")


def _rows(report: Report) -> list[tuple[str, Cell]]:
    speeds = report.times.speeds
    perplexity = "perplexity" if report.one_tokenizer else "perplexity (tokenizer)"
    rows: list[tuple[str, Cell]] = [
        ("origin", lambda m: m.provenance.kind.removesuffix(" here")),
        ("parameters", lambda m: _count(m.parameters)),
        ("trained share", lambda m: _share(m.provenance.trained_share, 2)),
        ("weights MB", lambda m: f"{m.weight_bytes / 1e6:,.1f}"),
        ("cache MB", lambda m: f"{m.cache_bytes / 1e6:,.1f}"),
        ("bits/byte held-out", lambda m: f"{m.held_out.bits_per_byte.value:.3f}"),
        ("  ±", lambda m: _spread(m.held_out.bits_per_byte)),
        (perplexity, lambda m: f"{m.held_out.perplexity:,.1f}{'' if report.one_tokenizer else ' ' + m.tokenizer}"),
        ("calibration error", lambda m: _share(m.calibration.error)),
        ("distinct 1-grams", lambda m: _share(m.diversity.distinct_1)),
        ("distinct 2-grams", lambda m: _share(m.diversity.distinct_2)),
        ("distinct 3-grams", lambda m: _share(m.diversity.distinct_3)),
        ("repeated 4-grams", lambda m: _share(m.diversity.repeated_4)),
        ("8-grams copied", lambda m: _share(m.memorization.texts.share) if m.memorization else "-"),
        ("  of held-out text", lambda m: _share(m.memorization.held_out.share) if m.memorization else "-"),
        ("longest overlap", _longest),
        ("tokens/s", lambda m: _count(speeds[m.name].tokens_per_second)),
        ("first token ms", lambda m: f"{1000 * speeds[m.name].first_token_seconds:,.1f}"),
    ]
    if report.general and report.general.source != report.held_out.source:
        general: tuple[str, Cell] = (
            "bits/byte general",
            lambda m: f"{m.general.bits_per_byte.value:.3f}" if m.general else "-",
        )
        rows.insert(8, general)
    return rows


def _longest(model: ModelResult) -> str:
    if model.memorization is None:
        return "-"
    longest = model.memorization.texts.longest
    return f"{longest.characters if longest else 0:,} chars"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _spread(estimate: Estimate) -> str:
    return "-" if estimate.standard_error is None else f"{Z_95 * estimate.standard_error:.3f}"


def _share(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"
