"""A model of ours as a GGUF file, which llama.cpp, and what is built on it, loads and continues as we do.

Adds to gpt2.py's table of names what the library gguf, of llama.cpp's own authors, calls each of those tensors;
to the tokenizer the form in which llama.cpp wants it. llama.cpp's GPT-2 has no switch for how it computes, so
a model that is computed otherwise is refused by name.

Two things there differ from ours and cannot be told in a file. GELU comes from a table in half precision: this
moves scores in the third digit after the point. And letters that came after Unicode 15 are signs, so that a text
with such letters may be cut into other tokens.

Sources: llama.cpp's `src/models/gpt2.cpp` and `src/llama-vocab.cpp`, which read the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from handloom import ownership, replacement
from handloom.checkpoints import gpt2
from handloom.checkpoints.gguf_tokenizer import add_tokenizer, modelfile, require_same_tokenizer, unknown_to_ollama
from handloom.checkpoints.hf_export import chat_template
from handloom.checkpoints.model_card import Use, how_it_was_trained, write_model_card
from handloom.errors import CheckpointError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.packages import import_failure
from handloom.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

SUFFIX = ".gguf"
TRAINING = "handloom.training"
"""The file's key for what is known of the training, as JSON: progress, settings and versions."""

Precision = Literal["f32", "f16"]

_MISTAKEN = ("phi3", "phi-3")
"""In a name that holds one of these, llama.cpp sees a model of that family, and looks for its special tokens."""


def export_gguf(
    target: Path,
    model: GPT,
    tokenizer: Tokenizer,
    training: dict[str, Any] | None = None,
    *,
    precision: Precision = "f32",
    overwrite: bool = False,
    reads: Sequence[Path] = (),
) -> Path:
    """Write the folder `target` with one GGUF file and a model card: wholly or not at all.

    Args:
        target: the folder to make; the file in it gets its name.
        model: ids beyond the tokenizer's, of which no text can come, are left out.
        tokenizer: the model's.
        training: what its checkpoint tells about its training; None: nothing is known.
        precision: f32 writes the weights bit for bit. f16 rounds the matrices, as llama.cpp's own converter does;
            what is in no matrix product (LayerNorms, biases, the position embedding) stays in f32.
        overwrite: whether a folder of ours that is there may be replaced.
        reads: the folders that the model was read from; they are not replaced.

    Returns:
        the file.

    Raises:
        ConfigError: the library gguf is missing, or the folder may not be made there, or not be replaced; see
            `ownership.require_replaceable`.
        CheckpointError: llama.cpp would compute something else, weights are too large for f16, another process makes
            the same folder, or the disk refuses.
    """
    require_library()
    from gguf import GGUFWriter

    ownership.require_replaceable(target, reads, overwrite)
    name = target.resolve().name.removesuffix(SUFFIX)
    _require_same_arithmetic(model.config, tokenizer, name)
    require_same_tokenizer(tokenizer)
    template = chat_template(tokenizer, training)
    tensors = _tensors(model, tokenizer)
    halves = {theirs for theirs in tensors if precision == "f16" and _multiplied_with(theirs, tensors[theirs])}
    size = sum(tensor.numel() * (2 if theirs in halves else 4) for theirs, tensor in tensors.items())
    with replacement.new_folder(target, size + (16 << 20), reads, overwrite) as aside:
        writer = GGUFWriter(aside / (name + SUFFIX), "gpt2")
        try:
            _describe(writer, name, model.config, training, precision)
            add_tokenizer(writer, tokenizer, template)
            _write_tensors(writer, tensors, halves)
        finally:
            writer.close()
        write_model_card(aside, name, model, tokenizer, training, _use(name, precision, tokenizer, template))
    return target / (name + SUFFIX)


def require_library() -> None:
    """Raise ConfigError unless the library gguf is there, to read or write such a file."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise import_failure(error, "Reading or writing a GGUF file") or error from None


def llama_names(config: GPTConfig) -> dict[str, str]:
    """GPT-2's name of each tensor -> llama.cpp's."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    known = get_tensor_name_map(MODEL_ARCH.GPT2, config.layers)
    found = {name.theirs: known.get_name(name.theirs, (".weight", ".bias")) for name in gpt2.names(config)}
    return {theirs: name for theirs, name in found.items() if name}  # it has no name for a head for labels


def _require_same_arithmetic(config: GPTConfig, tokenizer: Tokenizer, name: str) -> None:
    """Raise unless llama.cpp's GPT-2 is this model's arithmetic."""
    why = None
    if config.activation != "gelu_tanh":
        why = f"activation is {config.activation}, and there it is always gelu_tanh"
    elif not config.scale_attention_weights:
        why = "scale_attention_weights is false, and there it is always true"
    elif config.scale_attention_by_inverse_layer:
        why = "scale_attention_by_inverse_layer is true, and there it is always false"
    elif config.label_names:
        why = "labels are set, and there is no head for them there"
    if why is not None:
        raise CheckpointError(
            f"llama.cpp would compute something else: this model's {why}.",
            "Use it with Handloom." if config.label_names else "Export it with --to hf instead.",
        )
    if tokenizer.vocab_size < 258:
        raise CheckpointError(
            "llama.cpp reads no tokenizer without merges, and this model's tokens are single bytes.",
            "Train with a --vocab-size of at least 258, or export with --to hf.",
        )
    if any(family in name.lower() for family in _MISTAKEN):
        raise CheckpointError(
            f"llama.cpp takes a model with the name {name!r} for one of the family Phi-3, and does not load it.",
            "Choose another name for the folder.",
        )


def _tensors(model: GPT, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Our tensors, (out, in) as they are, under llama.cpp's names."""
    ours, theirs = model.state_dict(), {}
    called = llama_names(model.config)
    for name in gpt2.names(model.config):
        by_token = name.theirs in ("wte.weight", "lm_head.weight")
        theirs[called[name.theirs]] = ours[name.ours][: tokenizer.vocab_size] if by_token else ours[name.ours]
    return theirs


def _multiplied_with(theirs: str, tensor: Tensor) -> bool:
    return tensor.dim() == 2 and not theirs.startswith("position_embd")


def _describe(
    writer: GGUFWriter, name: str, config: GPTConfig, training: dict[str, Any] | None, precision: Precision
) -> None:
    from gguf import LlamaFileType

    writer.add_type("model")
    writer.add_name(name)
    writer.add_description("A GPT-2 style model, exported by Handloom. " + how_it_was_trained(training))
    if training is not None:
        kept = {key: training[key] for key in ("progress", "settings", "versions")}
        writer.add_string(TRAINING, json.dumps(kept, ensure_ascii=False))
    writer.add_file_type(LlamaFileType.ALL_F32 if precision == "f32" else LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.embed_dim)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.feedforward_dim)
    writer.add_head_count(config.heads)
    writer.add_layer_norm_eps(config.norm_eps)


def _write_tensors(writer: GGUFWriter, tensors: dict[str, Tensor], halves: set[str]) -> None:
    """Write the file. One tensor at a time is converted, so that the model is not in memory twice."""
    for theirs, tensor in tensors.items():
        kind = torch.empty(0, dtype=_kind(theirs, halves)).numpy().dtype
        writer.add_tensor_info(theirs, tuple(tensor.shape), kind, tensor.numel() * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for theirs, tensor in tensors.items():
        stored = tensor.to(_kind(theirs, halves))
        if not stored.isfinite().all():
            raise CheckpointError(
                f"The weights {theirs} are too large for f16, which ends at 65,504.", "Export with --dtype f32."
            )
        writer.write_tensor_data(stored.contiguous().numpy())


def _kind(theirs: str, halves: set[str]) -> torch.dtype:
    return torch.float16 if theirs in halves else torch.float32


def _use(name: str, precision: Precision, tokenizer: Tokenizer, template: str | None) -> Use:
    file = name + SUFFIX
    numbers = "All weights are in f32, as they were trained."
    if precision == "f16":
        numbers = "Matrices are rounded to f16; LayerNorms, biases and the position embedding are in f32."
    command = f'llama-completion -m {quote(file)} -no-cnv --temp 0 -n 60 -p "The "'
    if template:
        command = f"llama-cli -m {quote(file)} --jinja"
    return Use(
        header="pipeline_tag: text-generation\ntags: [gguf, gpt2, handloom]",
        how=f"""{numbers} With llama.cpp:

```sh
{command}
```

With Ollama, `ollama create {name.lower()}` in this folder, and in it a file `Modelfile`:

```
{modelfile(file, tokenizer, template)}
```{unknown_to_ollama(tokenizer, template)}""",
    )
