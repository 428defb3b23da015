"""Find the model that a name stands for, and make it ready to write. The one place where models are looked up."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

from handloom.checkpoints import files, gpt2, native, pulled
from handloom.errors import CheckpointError
from handloom.inference.text import LanguageModel

Stored = native.Checkpoint | gpt2.Published
"""A model on disk: it has a `folder` and a `config`, and can `load_model()` and `load_tokenizer()`."""


def _warn(note: str) -> None:
    warnings.warn(note, stacklevel=4)


def find_checkpoint(name: str | Path, on_note: Callable[[str], None] = _warn) -> Stored:
    """The model that `name` stands for.

    Args:
        name: a run folder (its newest whole checkpoint), a checkpoint folder, a Hugging Face folder, or the
            name of a model that was pulled. A folder that is there goes before a pulled model of that name.
        on_note: told when newer checkpoints of the run were passed over because they are torn.

    Raises:
        CheckpointError: when there is none.
    """
    folder = Path(name)
    try:
        if not folder.exists():
            folder = _pulled(folder) or folder
        known = folder.exists()
    except OSError as error:  # a name too long, or a folder that may not be looked into
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.", "Name another folder.") from None
    if not known:
        raise CheckpointError(
            f"There is no model at {folder}, and none of that name was pulled.", _remedy(folder)
        )
    if (folder / native.CHECKPOINTS).is_dir():
        checkpoint, passed_over = native.latest(folder)
        for torn in passed_over:
            on_note(f"{torn.problem} {checkpoint.folder.name} is used instead.")
        return checkpoint
    if (folder / gpt2.CONFIG).is_file():
        if files.read_json(folder / gpt2.CONFIG).get("format") == native.FORMAT:
            return native.open_checkpoint(folder)
        return gpt2.open_folder(folder)
    raise CheckpointError(
        f"{folder} is neither a run folder (it has no {native.CHECKPOINTS}/) nor a checkpoint or a Hugging Face "
        f"folder (it has no {gpt2.CONFIG}).",
        "Name a run folder such as runs/demo.",
    )


def load(name: str | Path, on_note: Callable[[str], None] = _warn) -> LanguageModel:
    """A model from disk, ready to write: `handloom.load("runs/demo").generate("Learning is")`.

    Nothing is fetched: what is not on this machine is an error that says how to get it.

    Args:
        name: a run folder, a checkpoint folder inside one, a Hugging Face folder, or a pulled name such as "gpt2".
        on_note: told when newer checkpoints of the run were passed over; a Python warning if not given.

    Raises:
        CheckpointError: when there is no model, or it is torn, damaged, or not one that we compute exactly.
    """
    stored = find_checkpoint(name, on_note)
    return LanguageModel(stored.load_model(), stored.load_tokenizer(), stored.folder)


def _pulled(name: Path) -> Path | None:
    """The folder of a pulled model of that name, if there is one."""
    folder = pulled.model_folder(name.as_posix())
    return folder if folder.is_dir() else None


def _remedy(name: Path) -> str:
    by_hand = "or name a folder that was copied here by hand"
    if re.fullmatch(r"(?!runs/)[\w.-]+(/[\w.-]+)?", name.as_posix()):
        return f"Fetch it with `handloom pull {name.as_posix()}`, {by_hand}."
    return f"Train one with `handloom train --run {name}` (or `make demo`), {by_hand}."
