"""handloom export"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from handloom.cli.flags import ModelPath, path_of


def export(
    model: ModelPath,
    folder: Annotated[Path, path_of("FOLDER")],
    *,
    to: Literal["hf", "gguf"],
    dtype: Literal["f32", "f16"] = "f32",
    overwrite: bool = False,
) -> None:
    """Write a model in a form that other programs read.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, or the name of a pulled model.
    folder
        The folder to make.
    to
        hf: a Hugging Face folder, for transformers and whatever reads its files;
        gguf: a file for llama.cpp, Ollama and their like, with a model card.
    dtype
        How the weights are written. f16, for gguf alone, takes half the space and rounds.
    overwrite
        Replace the folder, if it is there and holds only what an earlier export wrote.
    """
    from handloom.checkpoints import hf_folder
    from handloom.checkpoints.gguf_export import export_gguf
    from handloom.checkpoints.hf_export import export_folder
    from handloom.console import note, write
    from handloom.errors import ConfigError
    from handloom.loading import find_model, folders_of
    from handloom.ownership import require_replaceable

    if to == "hf" and dtype != "f32":
        raise ConfigError(
            f"A Hugging Face folder is written in f32, not in {dtype}.", "Leave --dtype out, or export --to gguf."
        )
    stored = find_model(model, note)
    reads = folders_of(stored)
    require_replaceable(folder, reads, overwrite)  # before the weights are read
    training = None if isinstance(stored, hf_folder.HFCheckpoint) else stored.training or None
    if to == "hf":
        export_folder(folder, stored.load_model(), stored.load_tokenizer(), training, overwrite=overwrite, reads=reads)
        kind = "SequenceClassification" if stored.config.label_names else "CausalLM"
        how = f"transformers loads it: AutoModelFor{kind}.from_pretrained({str(folder)!r})"
    else:
        file = export_gguf(
            folder,
            stored.load_model(),
            stored.load_tokenizer(),
            training,
            precision=dtype,
            overwrite=overwrite,
            reads=reads,
        )
        how = f'llama.cpp continues a text with it: llama-completion -m {shlex.quote(str(file))} -no-cnv -p "The "'
    write(f"Written to {folder}.")
    write(how)
