"""How well labels are told apart, as a table for people."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from handloom.console import Console

_MOST = 6  # labels whose matrix still fits a terminal


def print_labels(console: Console, summary: dict[str, Any]) -> None:
    """The figures of each label, and what its held-out texts were taken for.

    Args:
        console: where to print.
        summary: of a run, with `labels` and `confusion`.
    """
    names = list(summary["labels"])
    if len(names) > _MOST:
        console.print(f"The figures of {len(names)} labels and what was taken for what are in summary.json.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("label", *(f"as {name}" for name in names), "precision", "recall", "F1"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for name, row in zip(names, summary["confusion"], strict=True):
        figures = [f"{summary['labels'][name][figure]:.1%}" for figure in ("precision", "recall", "f1")]
        table.add_row(name, *map(str, row), *figures)
    console.print(table)
