"""handloom export"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal


def export(model: Path, folder: Path, *, to: Literal["hf"], overwrite: bool = False) -> None:
    """Write a model in a form that other programs read.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, or the name of a pulled model.
    folder
        The folder to make.
    to
        hf: a Hugging Face folder, for transformers and whatever reads its files.
    overwrite
        Replace the folder if it is there.
    """
    from handloom.checkpoints import native
    from handloom.checkpoints.gpt2_export import export_folder
    from handloom.loading import find_checkpoint

    stored = find_checkpoint(model, lambda note: print(f"Note: {note}", file=sys.stderr))
    training = stored.training if isinstance(stored, native.Checkpoint) else None
    export_folder(folder, stored.load_model(), stored.load_tokenizer(), training, overwrite=overwrite)
    print(
        f"Written to {folder}. transformers loads it: AutoModelForCausalLM.from_pretrained({str(folder)!r})"
    )
