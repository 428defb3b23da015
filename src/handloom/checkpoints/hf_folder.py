"""A model in a Hugging Face folder: walks a family's table of tensor names, in both directions.

Reading copies nothing where the weights are float32: those of the model are views of the mapped file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from handloom import storage
from handloom.checkpoints.families.gpt2 import GPT2
from handloom.checkpoints.formats import AGAIN, DTYPES
from handloom.checkpoints.hf_config import overlooked, read_config
from handloom.checkpoints.hf_tokenizer import lacks_tokenizer, read_tokenizer
from handloom.checkpoints.hf_weights import read_metadata, read_weights
from handloom.checkpoints.memory import require_memory
from handloom.checkpoints.model_store import CONFIG
from handloom.checkpoints.safetensors_io import require_same_shapes
from handloom.errors import CheckpointError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer

FINGERPRINT = "tokenizer"
"""The key in the metadata of exported weights with the fingerprint of their tokenizer."""
_PREFIXED = re.compile(
    rf"((?:module\.|_orig_mod\.|model\.|base_model\.|pretrained_model\.)*)({re.escape(GPT2.tensors.prefix)})?(.*)",
    re.DOTALL,
)
"""What DataParallel, torch.compile and training programs put before every name; the family's prefix; the plain name."""
_QUANTIZED = re.compile(r".*\.(qweight|qzeros|g_idx|SCB|absmax|quant_map|quant_state\..*|weight_scale)")
"""What GPTQ, AWQ, bitsandbytes and compressed-tensors store with a matrix or instead of it."""
_FOREIGN = f"The weights do not belong to this {CONFIG}. {AGAIN}"


def _quiet(what: object) -> None:
    pass


@dataclass(frozen=True)
class HFCheckpoint:
    """A model in a Hugging Face folder, of which only `config.json` was read yet."""

    folder: Path
    config: GPTConfig
    on_note: Callable[[str], None] = _quiet
    """Called with what is left out of the weights."""

    def load_model(self, on_read: Callable[[Tensor], None] = _quiet) -> GPT:
        """The model, ready to use, in float32; `on_read` is called with each tensor that was looked at.

        Raises CheckpointError for weights that are missing, damaged, not finite, or another model's.
        """
        require_memory(self.config, self.folder)
        with torch.device("meta"):
            model = GPT(self.config)
        weights = from_hf(self.read_tensors(), model, self.folder, self.on_note, on_read=on_read)
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def read_tensors(self) -> dict[str, Tensor]:
        """The weights under their family's names."""
        return read_weights(self.folder)

    def load_tokenizer(self) -> Tokenizer:
        """The folder's tokenizer, checked against the fingerprint that our own export leaves with the weights.

        Raises CheckpointError also for another tokenizer than was exported with the model.
        """
        if lacks_tokenizer(self.folder, self.config):
            self.on_note(f"{self.folder} comes without a tokenizer of any kind; GPT-2's is used.")
        tokenizer = read_tokenizer(self.folder, self.config)
        exported = read_metadata(self.folder).get(FINGERPRINT)
        if exported is not None and exported != tokenizer.fingerprint:  # which takes 0.1 s to compute
            raise CheckpointError(
                f"The tokenizer in {self.folder} is not the one that its model was exported with: fingerprint "
                f"{tokenizer.fingerprint[:12]} instead of {exported[:12]}.",
                "Put back the tokenizer that was exported with this model, or export it again.",
            )
        return tokenizer


def open_folder(folder: Path, on_note: Callable[[str], None] = _quiet) -> HFCheckpoint:
    """Read the `config.json` of a Hugging Face folder.

    Raises CheckpointError: it is missing, or of a model that we would not compute exactly.
    """
    values = storage.read_json(folder / CONFIG)
    config = read_config(values, folder / CONFIG)
    for note in overlooked(values, config, folder / CONFIG):
        on_note(note)
    return HFCheckpoint(folder, config, on_note)


@torch.no_grad()
def from_hf(
    tensors: dict[str, Tensor],
    model: GPT,
    origin: Path,
    on_note: Callable[[str], None] = _quiet,
    on_read: Callable[[Tensor], None] = _quiet,
) -> dict[str, Tensor]:
    """The tensors of `origin` under our names, as views of themselves where they are float32.

    Args:
        tensors: under their family's names, with or without prefixes; emptied, so that what was converted is freed.
        model: its shapes are expected.
        on_note: called with what is left out: prefixes of all names, and heads that generate no text.
        on_read: called with each tensor that was looked at.

    Raises CheckpointError unless every other tensor is used exactly once, has the expected shape and type, and is
    finite.
    """
    plain = language_model(tensors, origin, on_note)
    tensors.clear()
    if model.config.tie_embeddings:
        _drop_tied_head(plain, origin)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wanted = {name.theirs: name for name in GPT2.tensors.of(model.config)}
    require_same_shapes(
        {theirs: shapes[n.ours][::-1] if n.transposed else shapes[n.ours] for theirs, n in wanted.items()},
        {name: tuple(tensor.shape) for name, tensor in plain.items()},
        origin,
        _FOREIGN,
    )
    ours = {}
    for theirs, name in wanted.items():
        on_read(tensor := _as_float32(theirs, plain.pop(theirs), origin))
        ours[name.ours] = tensor.T if name.transposed else tensor
    return ours


def to_hf(model: GPT) -> dict[str, Tensor]:
    """Our tensors under the family's names, with its prefix: the inverse of `from_hf`. A tied head is stored once."""
    ours, family = model.state_dict(), GPT2.tensors
    return {
        name.theirs if name in (family.head, family.classifier) else family.prefix + name.theirs: ours[name.ours].T
        if name.transposed
        else ours[name.ours]
        for name in family.of(model.config)
    }


def language_model(tensors: dict[str, Tensor], origin: Path, on_note: Callable[[str], None]) -> dict[str, Tensor]:
    """The language model, or classifier, among the tensors, under plain names.

    Training programs put a prefix of their own before every name, and the family's comes before all but the heads.
    Stored masks and heads that generate no text are left out. Raises CheckpointError for several prefixes, so that it
    is not clear what the model is; or for quantized weights.
    """
    family = GPT2.tensors
    plain: dict[str, Tensor] = {}
    left_out: list[str] = []
    wrappings: dict[str, str] = {}  # each prefix, and a name that has it
    inners: dict[str, str] = {}
    for name, tensor in tensors.items():
        if _QUANTIZED.fullmatch(name):
            raise CheckpointError(
                f"{origin} holds quantized weights: {name}.",
                f"{DTYPES} Use the repository of the model that it was made from.",
            )
        match = _PREFIXED.fullmatch(name)
        assert match
        wrapping, inner, short = match.groups("")
        if family.not_learned.fullmatch(short):
            continue
        if family.other_heads.fullmatch(short) and not inner:
            left_out.append(name)
            continue
        wrappings.setdefault(wrapping, name)
        if short in (family.head.theirs, family.classifier.theirs):
            plain[inner + short] = tensor
        else:
            inners.setdefault(inner, name)
            plain[short] = tensor
    for prefixes in (wrappings, inners):
        if len(prefixes) > 1:
            raise CheckpointError(
                f"{origin} names its tensors in more than one way: {' and '.join(sorted(prefixes.values())[:2])}.",
                "It is not clear which of them are the model. Use a file that holds the model alone.",
            )
    if wrapping := next(iter(wrappings), ""):
        on_note(f"{origin}: {wrapping!r} before the names of the tensors is ignored.")
    if left_out:
        on_note(f"{origin}: {', '.join(sorted(left_out))} left out; the language model does not need them.")
    return plain


def _drop_tied_head(plain: dict[str, Tensor], origin: Path) -> None:
    """A tied head may be stored as well, if it equals the embedding."""
    head_name, embedding_name = GPT2.tensors.head.theirs, GPT2.tensors.embedding
    head, embedding = plain.pop(head_name, None), plain.get(embedding_name)
    if head is None or embedding is None:
        return
    if head.dtype != embedding.dtype or not head.equal(embedding):
        raise CheckpointError(
            f"{origin} holds a {head_name} that is not its {embedding_name}, but by its {CONFIG} they are one.",
            f'If the model has a head of its own, write "tie_word_embeddings": false into {CONFIG}.',
        )


def _as_float32(name: str, tensor: Tensor, origin: Path) -> Tensor:
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise CheckpointError(
            f"In {origin} the tensor {name} is of type {str(tensor.dtype).removeprefix('torch.')}.", DTYPES
        )
    # The sum decides in nearly all cases, and needs no copy of the tensor as isfinite() does.
    total = tensor.sum(dtype=torch.float32)
    if not total.isfinite() and not all(part.isfinite().all() for part in tensor.split(1024)):
        raise CheckpointError(
            f"In {origin} the tensor {name} holds numbers that are not finite.", f"The weights are damaged. {AGAIN}"
        )
    return tensor.float()
