"""nanoGPT's `ckpt.pt`, read into our model: its weights alone, by torch's weights-only unpickler.

nanoGPT has GPT-2's names of tensors, but stores its matrices as (out, in), and may leave out every bias, which equals
biases of zero. Its file does not name the tokenizer: GPT-2's for a vocabulary of its size (or padded to 50,304), else
the tokenizer files in its folder. A `meta.pkl` is a pickle, and is not read.

Source: `model.py` and `train.py` of nanoGPT, which write the file.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handloom.checkpoints.families.gpt2 import GPT2
from handloom.checkpoints.hf_folder import HFCheckpoint, language_model
from handloom.checkpoints.hf_tokenizer import read_tokenizer
from handloom.checkpoints.hf_weights import unpickle
from handloom.errors import CheckpointError, ConfigError
from handloom.model.config import GPTConfig
from handloom.tokenizer.base import Tokenizer

_ARGUMENTS = {
    "vocab_size": "vocab_size",
    "block_size": "context_length",
    "n_layer": "layers",
    "n_head": "heads",
    "n_embd": "embed_dim",
    "dropout": "dropout",
}
"""nanoGPT's argument -> our field."""
_GPT2_SIZE = GPTConfig().vocab_size
_PADDED_SIZE = 50304
"""GPT-2's vocabulary, rounded up to a multiple of 64."""


@dataclass(frozen=True)
class NanoGPT(HFCheckpoint):
    """A model that nanoGPT saved; `folder` is the file."""

    def read_tensors(self) -> dict[str, Tensor]:
        """The weights under GPT-2's names, as GPT-2 stores them."""
        plain = language_model(_saved(self.folder)["model"], self.folder, self.on_note)
        biased = any(name.endswith(".bias") for name in plain)
        for name in GPT2.tensors.of(self.config):
            if name.transposed and name.theirs in plain:
                plain[name.theirs] = plain[name.theirs].T
            matrix = plain.get(name.theirs.removesuffix("bias") + "weight")
            if name.theirs.endswith(".bias") and not biased and matrix is not None:
                plain[name.theirs] = torch.zeros(matrix.shape[-1])
        return plain

    def load_tokenizer(self) -> Tokenizer:
        """GPT-2's for a vocabulary of its size, else that of the tokenizer files in the same folder."""
        padded = self.config.vocab_size == _PADDED_SIZE
        config = dataclasses.replace(self.config, vocab_size=_GPT2_SIZE) if padded else self.config
        return read_tokenizer(self.folder.parent, config)


def open_file(path: Path, on_note: Callable[[str], None]) -> NanoGPT:
    """Read the shape of a model that nanoGPT saved.

    Raises CheckpointError: the file is damaged or something else, has settings that nanoGPT does not have, or ids that
    only a `meta.pkl` explains.
    """
    arguments = _saved(path)["model_args"]
    if unknown := sorted(map(str, arguments.keys() - {*_ARGUMENTS, "bias"})):
        raise CheckpointError(
            f"{path}: model_args has {', '.join(unknown)}, which nanoGPT's GPT does not know.",
            "Such a model may compute something else here, so it is not read.",
        )
    fields = {ours: arguments[theirs] for theirs, ours in _ARGUMENTS.items() if theirs in arguments}
    try:
        config = GPTConfig(activation="gelu", **fields)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.remedy) from None
    if config.vocab_size not in (_GPT2_SIZE, _PADDED_SIZE) and (meta := path.with_name("meta.pkl")).exists():
        raise CheckpointError(
            f"{path} has {config.vocab_size} ids of its own, which only {meta} explains: a pickle, and Handloom runs "
            "none.",
            "Train such a model with `handloom train`.",
        )
    on_note(f"{path}: read as nanoGPT has it since June 2023, with the exact GELU; the file does not name it.")
    return NanoGPT(path, config, on_note)


def _saved(path: Path) -> dict[str, Any]:
    found = unpickle(path, mapped=zipfile.is_zipfile(path))
    model, arguments = found.get("model"), found.get("model_args")
    sound = isinstance(model, dict) and isinstance(arguments, dict)
    if not sound or not all(isinstance(v, Tensor) and isinstance(k, str) for k, v in (model or {}).items()):
        raise CheckpointError(
            f"{path} is not what nanoGPT saves: model_args is missing, or tensors in its model.",
            "Handloom reads Hugging Face folders, GGUF files and nanoGPT's ckpt.pt. Save the model as one of these.",
        )
    return found
