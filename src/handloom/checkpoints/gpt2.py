"""GPT-2 as Hugging Face folders have it, read into our model: one table of names drives import and export.

GPT-2's own code kept the weights of its linear layers as (in, out), where PyTorch has (out, in); so they
are turned. Reading copies nothing: the model's weights are views of the mapped file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from handloom import storage
from handloom.checkpoints.gpt2_config import overlooked, read_config
from handloom.checkpoints.gpt2_tokenizer import lacks_tokenizer, read_tokenizer
from handloom.checkpoints.hf_weights import read_metadata, read_weights
from handloom.checkpoints.memory import require_memory
from handloom.errors import CheckpointError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer

CONFIG = "config.json"
FINGERPRINT = "tokenizer"
"""The remark in an exported file of weights that holds the fingerprint of its tokenizer."""
PREFIX = "transformer."
"""What GPT2LMHeadModel puts before every name but that of the head; GPT2Model leaves it out."""


@dataclass(frozen=True)
class ParamMap:
    """One tensor under both its names."""

    ours: str
    theirs: str
    turned: bool = False
    """Whether theirs is the transpose of ours."""


_OUTSIDE = (
    ParamMap("embedding.token_embedding.weight", "wte.weight"),
    ParamMap("embedding.position_embedding.weight", "wpe.weight"),
    ParamMap("final_norm.weight", "ln_f.weight"),
    ParamMap("final_norm.bias", "ln_f.bias"),
)
_IN_BLOCK = (
    ParamMap("attention_norm.weight", "ln_1.weight"),
    ParamMap("attention_norm.bias", "ln_1.bias"),
    ParamMap("attention.qkv.weight", "attn.c_attn.weight", turned=True),
    ParamMap("attention.qkv.bias", "attn.c_attn.bias"),
    ParamMap("attention.out.weight", "attn.c_proj.weight", turned=True),
    ParamMap("attention.out.bias", "attn.c_proj.bias"),
    ParamMap("feedforward_norm.weight", "ln_2.weight"),
    ParamMap("feedforward_norm.bias", "ln_2.bias"),
    ParamMap("feedforward.up.weight", "mlp.c_fc.weight", turned=True),
    ParamMap("feedforward.up.bias", "mlp.c_fc.bias"),
    ParamMap("feedforward.down.weight", "mlp.c_proj.weight", turned=True),
    ParamMap("feedforward.down.bias", "mlp.c_proj.bias"),
)
_HEAD = ParamMap("lm_head.weight", "lm_head.weight")
_CLASSIFIER_HEAD = ParamMap("classifier.weight", "score.weight")
_PREFIXED = re.compile(
    r"((?:module\.|_orig_mod\.|model\.|base_model\.|pretrained_model\.)*)(transformer\.)?(.*)", re.DOTALL
)
"""What DataParallel, torch.compile and training programs put before every name; `PREFIX`; the plain name."""
_OTHER_HEADS = re.compile(r"(v_head|ilql_heads|multiple_choice_head)\..+")
"""Heads that are not the language model's: TRL's and trlX's for values, GPT2DoubleHeadsModel's."""
_QUANTIZED = re.compile(r".*\.(qweight|qzeros|g_idx|SCB|absmax|quant_map|quant_state\..*|weight_scale)")
"""What GPTQ, AWQ, bitsandbytes and compressed-tensors store with a matrix or instead of it."""
_MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""Older files store the causal mask, and the number that stood for minus infinity. Neither is learned."""

_REMEDY = "The weights do not belong to this config.json. Copy or fetch the folder again from where it came."


def names(config: GPTConfig) -> Iterator[ParamMap]:
    """Every tensor of a model, once."""
    yield from _OUTSIDE
    for i in range(config.layers):
        for name in _IN_BLOCK:
            yield ParamMap(f"blocks.{i}.{name.ours}", f"h.{i}.{name.theirs}", name.turned)
    if not config.tie_embeddings:
        yield _HEAD
    if config.label_names:
        yield _CLASSIFIER_HEAD


@dataclass(frozen=True)
class HFCheckpoint:
    """A GPT-2 in a Hugging Face folder, of which so far only `config.json` was read."""

    folder: Path
    config: GPTConfig
    on_note: Callable[[str], None] = lambda note: None
    """Told of what is left out of the weights."""

    def load_model(self) -> GPT:
        """The model, ready to use, in float32.

        Raises:
            CheckpointError: for weights that are missing, torn, not finite, or not this model's.
        """
        require_memory(self.config, self.folder)
        with torch.device("meta"):
            model = GPT(self.config)
        weights = from_hf(self.read_tensors(), model, self.folder, self.on_note)
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def read_tensors(self) -> dict[str, Tensor]:
        """The weights under GPT-2's names."""
        return read_weights(self.folder)

    def load_tokenizer(self) -> Tokenizer:
        """What `read_tokenizer` finds, held against the remark that our own export leaves with the weights.

        Raises:
            CheckpointError: also for another tokenizer than was exported with the model.
        """
        if lacks_tokenizer(self.folder, self.config):
            self.on_note(f"{self.folder} has no tokenizer of any kind; GPT-2's is used.")
        tokenizer = read_tokenizer(self.folder, self.config)
        exported = read_metadata(self.folder).get(FINGERPRINT)
        if exported not in (None, tokenizer.fingerprint):
            raise CheckpointError(
                f"The tokenizer in {self.folder} is not the one that its model was exported with: fingerprint "
                f"{tokenizer.fingerprint[:12]} instead of {exported[:12]}.",
                "Put back the tokenizer that was exported with this model, or export it again.",
            )
        return tokenizer


def open_folder(folder: Path, on_note: Callable[[str], None] = lambda note: None) -> HFCheckpoint:
    """Read the `config.json` of a Hugging Face folder.

    Args:
        folder: with the weights.
        on_note: told what is overlooked in it, and later what is left out of the weights.

    Raises:
        CheckpointError: when it is missing, or of a model that we would not compute exactly.
    """
    path = folder / CONFIG
    values = storage.read_json(path)
    config = read_config(values, path)
    for note in overlooked(values, config, path):
        on_note(note)
    return HFCheckpoint(folder, config, on_note)


@torch.no_grad()
def from_hf(
    tensors: dict[str, Tensor], model: GPT, origin: Path, on_note: Callable[[str], None] = lambda note: None
) -> dict[str, Tensor]:
    """GPT-2's tensors under our names, as views of themselves where they are float32.

    Args:
        tensors: under GPT-2's names, with or without `transformer.`; emptied, so that what was
            converted can be forgotten.
        model: ours; its shapes are what is expected.
        origin: where they came from, for messages.
        on_note: told what is left out: prefixes of all names, and heads that write no text.

    Raises:
        CheckpointError: unless every other tensor is used exactly once, has the shape and kind expected, and is finite.
    """
    plain = language_model(tensors, origin, on_note)
    tensors.clear()
    if model.config.tie_embeddings:
        _drop_tied_head(plain, origin)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wanted = {name.theirs: name for name in names(model.config)}
    _match(
        {theirs: shapes[name.ours][::-1] if name.turned else shapes[name.ours] for theirs, name in wanted.items()},
        {name: tuple(tensor.shape) for name, tensor in plain.items()},
        origin,
    )
    ours = {}
    for theirs, name in wanted.items():
        tensor = _as_float32(theirs, plain.pop(theirs), origin)
        ours[name.ours] = tensor.T if name.turned else tensor
    return ours


def to_hf(model: GPT) -> dict[str, Tensor]:
    """Our tensors under GPT-2's names, with `transformer.`; the inverse of `from_hf`. A tied head is stored once."""
    ours = model.state_dict()
    return {
        name.theirs if name in (_HEAD, _CLASSIFIER_HEAD) else PREFIX + name.theirs: ours[name.ours].T
        if name.turned
        else ours[name.ours]
        for name in names(model.config)
    }


def language_model(tensors: dict[str, Tensor], origin: Path, on_note: Callable[[str], None]) -> dict[str, Tensor]:
    """The language model, or classifier, among the tensors, under plain names.

    What wraps a model for training puts its own name before each of theirs, and `transformer.` comes before all but
    the heads. Stored masks, and heads that write no text, are left out.

    Raises:
        CheckpointError: for several prefixes, so that it is not clear what the model is; or for quantized weights.
    """
    plain: dict[str, Tensor] = {}
    left_out: list[str] = []
    wrappings: dict[str, str] = {}  # each prefix, and a name that has it
    inners: dict[str, str] = {}
    for name, tensor in tensors.items():
        if _QUANTIZED.fullmatch(name):
            raise CheckpointError(
                f"{origin} holds quantized weights: {name}.",
                "Handloom reads float32, float16 and bfloat16. Use the repository of the model that it was made from.",
            )
        match = _PREFIXED.fullmatch(name)
        assert match
        wrapping, inner, short = match.groups("")
        if _MASKS.fullmatch(short):
            continue
        if _OTHER_HEADS.fullmatch(short) and not inner:
            left_out.append(name)
            continue
        wrappings.setdefault(wrapping, name)
        if short in (_HEAD.theirs, _CLASSIFIER_HEAD.theirs):
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
        on_note(f"{origin}: {wrapping!r} before the names of the tensors is overlooked.")
    if left_out:
        on_note(f"{origin}: {', '.join(sorted(left_out))} left out; the language model does not need them.")
    return plain


def _drop_tied_head(plain: dict[str, Tensor], origin: Path) -> None:
    """A tied head may be stored as well, if it says the same."""
    head = plain.pop(_HEAD.theirs, None)
    embedding = plain.get("wte.weight")
    if head is None or embedding is None:
        return
    if head.dtype != embedding.dtype or not head.equal(embedding):
        raise CheckpointError(
            f"{origin} holds a {_HEAD.theirs} that is not its wte.weight, but by its {CONFIG} they are one.",
            f'If the model has a head of its own, write "tie_word_embeddings": false into {CONFIG}.',
        )


def _match(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], origin: Path) -> None:
    """Raise unless names and shapes are the same."""
    missing, unused = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    surplus = f"{unused[0]} of shape {found[unused[0]]}, which is of no use here" if unused else ""
    if missing:
        raise CheckpointError(
            f"In {origin} the tensor {missing[0]} of shape {wanted[missing[0]]} is missing"
            + (f"; there is {surplus}." if surplus else "."),
            _REMEDY,
        )
    if surplus:
        raise CheckpointError(f"{origin} holds the tensor {surplus}.", _REMEDY)
    for name, shape in wanted.items():
        if found[name] != shape:
            raise CheckpointError(f"In {origin} the tensor {name} has shape {found[name]} instead of {shape}.", _REMEDY)


def _as_float32(name: str, tensor: Tensor, origin: Path) -> Tensor:
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise CheckpointError(
            f"In {origin} the tensor {name} is of type {str(tensor.dtype).removeprefix('torch.')}.",
            "Handloom reads float32, float16 and bfloat16.",
        )
    # One number tells in nearly all cases, and needs no copy of the tensor as isfinite() does.
    total = tensor.sum(dtype=torch.float32)
    if not total.isfinite() and not all(part.isfinite().all() for part in tensor.split(1024)):
        raise CheckpointError(
            f"In {origin} the tensor {name} holds numbers that are not finite.",
            "The weights are damaged. Copy or fetch the folder again from where it came.",
        )
    return tensor.float()
