"""handloom model"""

from __future__ import annotations

import os

from cyclopts import App

app = App(name="model", help="Show what a model is made of.", help_format="plaintext")


@app.command
def show(name: str) -> None:
    """Print the parts of a model with their parameters, bytes and arithmetic.

    Parameters
    ----------
    name
        A preset (see `handloom model list`) or a run folder.
    """
    from rich import box
    from rich.table import Table

    from handloom.console import new_console, note
    from handloom.model.config import PRESETS, preset
    from handloom.model.summary import model_summary

    if name in PRESETS or not _is_path(name):
        config = preset(name)
    else:
        from handloom.loading import find_model

        config = find_model(name, note).config
    parts = model_summary(config)
    table = Table(
        title=f"{name}: {config.layers} layers, context {config.context_length}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in ("part", "shape", "times", "parameters", "MB", "MFLOP"):
        table.add_column(column, justify="left" if column in ("part", "shape") else "right", no_wrap=True)
    for part in parts:
        table.add_row(
            part.name, part.shape, str(part.count), f"{part.parameters:,}", f"{part.parameters * 4 / 1e6:,.1f}",
            f"{part.flops / 1e6:,.2f}",
        )  # fmt: skip
    total, flops = sum(part.parameters for part in parts), sum(part.flops for part in parts)
    table.add_section()
    table.add_row("all", "", "", f"{total:,}", f"{total * 4 / 1e6:,.1f}", f"{flops / 1e6:,.2f}", style="bold")
    console = new_console()
    console.print(table)
    console.print(
        "MB in float32. MFLOP for each token: forward pass, attention over half the context; "
        "training costs three times as much."
    )


@app.command(name="list")
def list_presets() -> None:
    """List the presets."""
    from rich.table import Table

    from handloom.console import new_console
    from handloom.model.config import PRESETS
    from handloom.model.summary import parameter_count

    table = Table()
    for column in ("preset", "layers", "heads", "embed_dim", "context_length", "vocabulary", "parameters"):
        table.add_column(column, justify="left" if column == "preset" else "right")
    for name, c in PRESETS.items():
        numbers = (c.layers, c.heads, c.embed_dim, c.context_length, c.vocab_size, parameter_count(c))
        table.add_row(name, *(f"{number:,}" for number in numbers))
    new_console().print(table)


def _is_path(name: str) -> bool:
    return os.sep in name or "/" in name or os.path.isdir(name)
