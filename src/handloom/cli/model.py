"""handloom model"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cyclopts import App

if TYPE_CHECKING:
    from handloom.checkpoints.model_store import LocalModel

app = App(name="model", help="List local models and presets, and show the parts of one.", help_format="plaintext")


@app.command(name="list")
def list_models(*, json: bool = False) -> None:
    """List the models in the models folder: fetched with `handloom pull`, or copied there by hand.

    Parameters
    ----------
    json
        Print one JSON object a line.
    """
    from handloom.checkpoints.model_store import local_models
    from handloom.console import print_json

    models = local_models()
    if not json:
        _print_models(models)
        return
    for model in models:
        print_json(model.to_dict())


def _print_models(models: list[LocalModel]) -> None:
    from rich import box
    from rich.table import Table

    from handloom.checkpoints.model_store import ENDPOINT, folder_bytes, unfinished_pulls
    from handloom.console import new_console
    from handloom.runtime import models_folder

    console = new_console()
    if models:
        table = Table(box=box.SIMPLE_HEAD)
        for column in ("model", "MB", "origin", "revision", "pulled"):
            table.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
        for model in models:
            at = "" if model.endpoint in (None, ENDPOINT) else f" at {model.endpoint}"
            origin = f"{model.repository}{at}" if model.repository else "copied by hand"
            revision, pulled = (model.revision or "")[:12], (model.pulled or "")[:10]
            table.add_row(model.name, f"{model.bytes / 1e6:,.1f}", origin, revision, pulled)
        console.print(table)
        console.print(f"Kept in {models_folder()}", soft_wrap=True)
    else:
        console.print(
            f"No model in {models_folder()}. Fetch one with: handloom pull gpt2. Or copy a folder there that holds "
            "config.json, vocab.json, merges.txt and the weights.",
            soft_wrap=True,
        )
    for name, folder in unfinished_pulls():
        fetched = f"{folder_bytes(folder) / 1e6:,.1f} MB fetched"
        console.print(f"Unfinished, {fetched}: {name}. To resume: handloom pull {name}", soft_wrap=True)


@app.command
def show(name: str) -> None:
    """Print the parts of a model with their parameters, bytes and arithmetic.

    Parameters
    ----------
    name
        A preset (see `handloom model presets`), a local model (see `handloom model list`) or a run folder.
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


@app.command
def presets() -> None:
    """List the presets: sizes of a new model to train."""
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
    from handloom.checkpoints.model_store import model_folder

    return os.sep in name or "/" in name or os.path.isdir(name) or model_folder(name).is_dir()
