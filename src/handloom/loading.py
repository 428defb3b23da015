"""Find the model that a name stands for, and make it ready to write."""

from __future__ import annotations

from pathlib import Path

from handloom.checkpoints import native
from handloom.errors import CheckpointError
from handloom.inference.text import LanguageModel


def find_checkpoint(name: str | Path) -> native.Checkpoint:
    """The checkpoint that `name` stands for: a run folder (its newest whole one) or a checkpoint folder.

    Raises:
        CheckpointError: when there is none.
    """
    folder = Path(name)
    if not folder.exists():
        raise CheckpointError(
            f"There is no model at {folder}.",
            f"Train one with `handloom train --run {folder}` (or `make demo`), or name another folder with --model.",
        )
    if (folder / native.CHECKPOINTS).is_dir():
        return native.latest(folder)[0]
    if (folder / "config.json").is_file():
        return native.open_checkpoint(folder)
    raise CheckpointError(
        f"{folder} is neither a run folder (it has no {native.CHECKPOINTS}/) nor a checkpoint (it has no config.json).",
        "Name a run folder such as runs/demo.",
    )


def load(name: str | Path) -> LanguageModel:
    """A model from disk, ready to write: `handloom.load("runs/demo").generate("Learning is")`.

    Args:
        name: a run folder, or a checkpoint folder inside one.

    Raises:
        CheckpointError: when there is no model, or it is torn or damaged.
    """
    checkpoint = find_checkpoint(name)
    return LanguageModel(checkpoint.load_model(), checkpoint.load_tokenizer(), checkpoint.folder)
