"""handloom models"""

from __future__ import annotations

from handloom.checkpoints.model_store import PulledModel


def models(*, json: bool = False) -> None:
    """List the models that were pulled, or copied into the models folder.

    Parameters
    ----------
    json
        Print one JSON object a line.
    """
    from handloom.checkpoints.model_store import pulled_models
    from handloom.console import print_json

    found = pulled_models()
    if json:
        for model in found:
            print_json(model.to_dict())
        return
    _print(found)


def _print(found: list[PulledModel]) -> None:
    from rich import box
    from rich.table import Table

    from handloom.checkpoints.model_store import folder_bytes, unfinished_pulls
    from handloom.console import new_console
    from handloom.runtime import models_folder

    console = new_console()
    if found:
        table = Table(box=box.SIMPLE_HEAD)
        for column in ("model", "MB", "origin", "revision", "pulled"):
            table.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
        for model in found:
            table.add_row(
                model.name, f"{model.bytes / 1e6:,.1f}", _origin(model), (model.revision or "")[:12],
                (model.pulled or "")[:10],
            )  # fmt: skip
        console.print(table)
        console.print(f"Kept in {models_folder()}", soft_wrap=True)
    else:
        console.print(
            f"There is no model in {models_folder()}. Fetch one with: handloom pull gpt2. Or copy a folder "
            "there that holds config.json, vocab.json, merges.txt and the weights.",
            soft_wrap=True,
        )
    for name, folder in unfinished_pulls():
        console.print(
            f"Begun, {folder_bytes(folder) / 1e6:,.1f} MB fetched so far: {name}. To go on: handloom pull {name}",
            soft_wrap=True,
        )


def _origin(model: PulledModel) -> str:
    """From where a model came; the hub's address only where it is not the usual one."""
    if model.repository is None:
        return "copied by hand"
    usual = model.endpoint == "https://huggingface.co"
    return model.repository if usual else f"{model.repository} at {model.endpoint}"
