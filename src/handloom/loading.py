"""Find the model that a name stands for, and make it ready to write."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from handloom.checkpoints import files, native
from handloom.errors import CheckpointError
from handloom.inference.text import LanguageModel


def _warn(note: str) -> None:
    warnings.warn(note, stacklevel=4)


def find_checkpoint(name: str | Path, on_note: Callable[[str], None] = _warn) -> native.Checkpoint:
    """The checkpoint that `name` stands for: a run folder (its newest whole one) or a checkpoint folder.

    Args:
        name: the folder.
        on_note: told when newer checkpoints of the run were passed over because they are torn.

    Raises:
        CheckpointError: when there is none.
    """
    folder = Path(name)
    try:
        known = folder.exists()
    except OSError as error:  # a name too long, or a folder that may not be looked into
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.", "Name another folder.") from None
    if not known:
        raise CheckpointError(
            f"There is no model at {folder}.",
            f"Train one with `handloom train --run {folder}` (or `make demo`), or name another folder with --model.",
        )
    if (folder / native.CHECKPOINTS).is_dir():
        checkpoint, passed_over = native.latest(folder)
        for torn in passed_over:
            on_note(f"{torn.problem} {checkpoint.folder.name} is used instead.")
        return checkpoint
    if (folder / "config.json").is_file():
        if files.read_json(folder / "config.json").get("format") != native.FORMAT:
            raise CheckpointError(
                f"{folder} holds a model of another program: its config.json is not Handloom's.",
                "Name a run folder such as runs/demo.",
            )
        return native.open_checkpoint(folder)
    raise CheckpointError(
        f"{folder} is neither a run folder (it has no {native.CHECKPOINTS}/) nor a checkpoint (it has no config.json).",
        "Name a run folder such as runs/demo.",
    )


def load(name: str | Path, on_note: Callable[[str], None] = _warn) -> LanguageModel:
    """A model from disk, ready to write: `handloom.load("runs/demo").generate("Learning is")`.

    Args:
        name: a run folder, or a checkpoint folder inside one.
        on_note: told when newer checkpoints of the run were passed over; a Python warning if not given.

    Raises:
        CheckpointError: when there is no model, or it is torn or damaged.
    """
    checkpoint = find_checkpoint(name, on_note)
    return LanguageModel(checkpoint.load_model(), checkpoint.load_tokenizer(), checkpoint.folder)
