"""A GPT-2 in a GGUF file, llama.cpp's format, read into our model: the inverse of gguf_export.

Weights become float32: those in f32, f16 and bf16 exactly, quantized ones as the library gguf converts them. Tokens and
merges are spelled as in `vocab.json` and `merges.txt`, so they are read as those are.

Source: llama.cpp's `src/models/gpt2.cpp`, which names what such a file must contain.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from handloom import storage
from handloom.checkpoints.families.gpt2 import GPT2
from handloom.checkpoints.gguf_export import llama_names, require_library
from handloom.checkpoints.hf_folder import HFCheckpoint
from handloom.checkpoints.hf_tokenizer import read_tokenizer
from handloom.errors import CheckpointError, ConfigError
from handloom.model.config import GPTConfig
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.vocab_files import MERGES, VOCABULARY

if TYPE_CHECKING:
    from gguf import GGUFReader
    from gguf.gguf_reader import ReaderTensor

_AGAIN = "Copy or fetch the file again from where it came."
_SIZES = {
    "context_length": "gpt2.context_length",
    "embed_dim": "gpt2.embedding_length",
    "layers": "gpt2.block_count",
    "ffn_dim": "gpt2.feed_forward_length",
    "heads": "gpt2.attention.head_count",
    "norm_eps": "gpt2.attention.layer_norm_epsilon",
}
"""Our field -> llama.cpp's key."""
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
"""Types of tokens other than words; unused ones fill the rows of a model that has more ids than tokens."""


@dataclass(frozen=True)
class GGUFModel(HFCheckpoint):
    """A GPT-2 in a GGUF file, which is its `folder`; only the part before the weights was read yet."""

    def read_tensors(self) -> dict[str, Tensor]:
        """The weights under GPT-2's names, as GPT-2 stores them."""
        reader = _open(self.folder)
        found = {tensor.name: tensor for tensor in reader.tensors}
        theirs = llama_names(self.config)
        tensors = {}
        for name in GPT2.tensors.of(self.config):
            if (tensor := found.pop(theirs[name.theirs], None)) is not None:
                plain = _float32(tensor, self.folder)
                tensors[name.theirs] = plain.T if name.transposed else plain
        if rounded := sorted({tensor.tensor_type.name for tensor in reader.tensors} - {"F32", "F16", "BF16"}):
            self.on_note(f"{self.folder}: weights were quantized ({', '.join(rounded)}); computed with in float32.")
        if self.config.tie_embeddings:
            found.pop(_HEAD, None)
        return tensors | {name: torch.empty(0) for name in found}  # unknown, and refused as such

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that the file describes."""
        reader = _open(self.folder)
        with TemporaryDirectory() as folder:
            for name, content in _tokenizer_files(reader).items():
                text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
                Path(folder, name).write_text(text, encoding="utf-8", newline="\n")
            return read_tokenizer(Path(folder), self.config)


def open_file(path: Path, on_note: Callable[[str], None]) -> GGUFModel:
    """Read the shape of the model in a GGUF file.

    Raises CheckpointError: the library gguf is missing, or the file is damaged, of another architecture, or has another
    kind of tokenizer.
    """
    reader = _open(path)
    architecture = _value(reader, "general.architecture")
    if architecture != "gpt2":
        raise CheckpointError(
            f"{path} holds a model of the architecture {architecture!r}; Handloom reads 'gpt2'.",
            "Use a GPT-2, or llama.cpp for this one.",
        )
    found = {tensor.name: tensor for tensor in reader.tensors}
    sizes = {ours: _value(reader, theirs) for ours, theirs in _SIZES.items()}
    if isinstance(epsilon := sizes["norm_eps"], float):
        sizes["norm_eps"] = float(str(np.float32(epsilon)))  # 1e-05 as it was written, not as it was rounded
    missing = [_SIZES[ours] for ours, value in sizes.items() if value is None]
    if missing or _EMBEDDING not in found:
        raise CheckpointError(f"{path} lacks {', '.join([*missing] or [_EMBEDDING])}.", _AGAIN)
    kind, split = _value(reader, "tokenizer.ggml.model"), _value(reader, "tokenizer.ggml.pre")
    if kind != "gpt2" or split not in ("gpt-2", "default", None):
        raise CheckpointError(
            f"{path}: its tokenizer is of the kind {kind!r}, with the pre-tokenizer {split!r}.",
            "Handloom reads a byte-level BPE with GPT-2's pre-tokenizer ('gpt2' with 'gpt-2').",
        )
    embedding, head = found[_EMBEDDING], found.get(_HEAD)
    tied = head is None or (head.tensor_type == embedding.tensor_type and np.array_equal(head.data, embedding.data))
    try:
        config = GPTConfig(vocab_size=int(embedding.shape[1]), tie_embeddings=tied, **sizes)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.remedy) from None
    return GGUFModel(path, config, on_note)


def _open(path: Path) -> GGUFReader:
    require_library()
    from gguf import GGUFReader

    storage.require_content(path)
    try:
        return GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read as GGUF: {error}.", _AGAIN) from None


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _float32(tensor: ReaderTensor, path: Path) -> Tensor:
    """The numbers of a tensor, (out, in)."""
    from gguf.quants import dequantize

    try:
        plain = dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        raise CheckpointError(
            f"{path}: {tensor.name} is of type {tensor.tensor_type.name}, which the library gguf cannot convert.",
            "Use a file of the same model in another precision, such as F16 or Q8_0.",
        ) from None
    shape = [int(size) for size in reversed(tensor.shape)]
    return torch.from_numpy(np.array(plain, dtype=np.float32)).view(shape)  # (out, in)


def _tokenizer_files(reader: GGUFReader) -> dict[str, Any]:
    """The contents of the files that a Hugging Face folder would have for this tokenizer."""
    tokens = _value(reader, "tokenizer.ggml.tokens") or []
    kinds = _value(reader, "tokenizer.ggml.token_type") or [1] * len(tokens)
    end = _value(reader, "tokenizer.ggml.eos_token_id")
    known = {token: (number, kind) for number, (token, kind) in enumerate(zip(tokens, kinds, strict=False))}
    added = {
        str(number): {"content": token, "special": kind == _CONTROL}
        for token, (number, kind) in known.items()
        if kind in (_CONTROL, _USER_DEFINED)
    }
    templates = {"default": _value(reader, "tokenizer.chat_template")}
    for name in _value(reader, "tokenizer.chat_templates") or []:
        templates[name] = _value(reader, f"tokenizer.chat_template.{name}")
    settings = {
        "eos_token": tokens[end] if end is not None and end < len(tokens) else None,
        "add_prefix_space": bool(_value(reader, "tokenizer.ggml.add_space_prefix")),
        "chat_template": {name: template for name, template in templates.items() if template},
        "added_tokens_decoder": added,
    }
    return {
        VOCABULARY: {token: number for token, (number, kind) in known.items() if kind != _UNUSED},
        MERGES: "".join(line + "\n" for line in ["#version: 0.2", *(_value(reader, "tokenizer.ggml.merges") or [])]),
        "tokenizer_config.json": {key: value for key, value in settings.items() if value},
        "generation_config.json": {"eos_token_id": _value(reader, "tokenizer.ggml.eot_token_id")},
    }
