"""The metrics of a classifier as a table."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from handloom.console import Console

_MOST = 6  # labels whose matrix still fits a terminal


def print_labels(console: Console, summary: dict[str, Any]) -> None:
    """The metrics of each label, and the confusion matrix, from the summary of a run."""
    names = list(summary["labels"])
    if len(names) > _MOST:
        console.print(f"The metrics of {len(names)} labels and their confusion matrix are in summary.json.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("label", *(f"as {name}" for name in names), "precision", "recall", "F1"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for name, row in zip(names, summary["confusion"], strict=True):
        metrics = [f"{summary['labels'][name][metric]:.1%}" for metric in ("precision", "recall", "f1")]
        table.add_row(name, *map(str, row), *metrics)
    console.print(table)
