"""Two models on one text, activation by activation: where do they part, in which element, at which token?

The second model is another one of the same shape, or the same one in another precision. Knows no files.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handloom.errors import ConfigError, ModelError, RequestError
from handloom.inference.language_model import LanguageModel
from handloom.inspection import activations
from handloom.inspection.activations import Difference
from handloom.inspection.check import TOLERANCE
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

PRECISIONS = {
    "fp32": "as it is: weights and arithmetic in float32",
    "bf16": "inside attention and feed-forward network, and in the head, arithmetic in bfloat16, as in training with "
    "`precision=bf16`; weights, LayerNorms and the residual stream in float32",
    "bf16-weights": "weights rounded to bfloat16, arithmetic in float32",
    "fp16-weights": "weights rounded to float16, arithmetic in float32",
}
"""What a model can be compared with, other than another model, and what that means."""

TEXT = "In the morning the weaver counts 24 threads. The quick brown fox jumps over the lazy dog, and the loom begins."
"""What is read if no text is given."""

_ROUNDED = {"bf16-weights": torch.bfloat16, "fp16-weights": torch.float16}
_SHAPE = ("vocab_size", "context_length", "layers", "heads", "embed_dim", "feedforward_dim")
_SUMMARY = 12
"""Lines of the summary that the blocks before the divergence may take."""


@dataclass(frozen=True)
class Weights:
    """How many tensors both models have, which of them are not the same to the bit, and which only one of them has."""

    count: int
    differing: tuple[str, ...]
    lone: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found."""

    ids: tuple[int, ...]
    """The tokens that both have read."""
    tokens: tuple[str, ...]
    """Each of them as text."""
    same_tokenizer: bool
    settings: dict[str, tuple[Any, Any]]
    """Fields of the configuration in which they differ; none of them is part of the shape."""
    weights: Weights
    differences: tuple[Difference, ...]
    """Of every activation, in the order a token meets them."""
    first: Difference | None
    """The first that exceeds the tolerance."""

    def position(self, difference: Difference) -> int:
        """Which token of the text an element belongs to, counted from 0; of attention patterns the one that looks."""
        return difference.where[2 if difference.name.endswith(".pattern") else 1]

    def summary(self) -> list[tuple[str, Difference]]:
        """Names and worst differences up to the first divergence: whole blocks first, then part by part.

        A line stands for several blocks where there are many.
        """
        end = len(self.differences) if self.first is None else self.differences.index(self.first) + 1
        alone = (None, None if self.first is None else _block(self.first))
        lines: list[tuple[str, Difference]] = []
        for is_whole, run in groupby(self.differences[:end], key=lambda each: _block(each) not in alone):
            if not is_whole:
                lines += [(each.name, each) for each in run]
                continue
            blocks = [(number, list(parts)) for number, parts in groupby(run, key=_block)]
            together = -(-len(blocks) // _SUMMARY)
            for at in range(0, len(blocks), together):
                numbers, parts = zip(*blocks[at : at + together], strict=True)
                name = f"block {numbers[0]}" if together == 1 else f"blocks {numbers[0]} to {numbers[-1]}"
                lines.append((name, max(chain(*parts), key=lambda each: each.worst / max(1.0, each.scale))))
        return lines


def is_precision(name: str) -> bool:
    """Whether `name` is one of `PRECISIONS`, and not a model.

    Raises ConfigError for one that looks like a precision, of which there is none, and no folder either.
    """
    if name in PRECISIONS:
        return True
    if re.fullmatch(r"(fp|bf|f|float|bfloat|int)-?\d+(-\w+)?|half|double", name) and not Path(name).exists():
        raise ConfigError(f"There is no precision {name!r} to compare with.", f"There are {', '.join(PRECISIONS)}.")
    return False


@torch.inference_mode()
def compare_models(
    one: LanguageModel, other: LanguageModel | str, text: str | None = None, tolerance: float = TOLERANCE
) -> Comparison:
    """Let two models read a text, in tokens of `one`, and hold their activations against each other.

    `other` is a model of the same shape, or one of `PRECISIONS` in which `one` is computed. `text` is `TEXT`, as far as
    it fits, if not given; `tolerance` is as `TOLERANCE`, for each activation. Raises ModelError for models of different
    shapes, naming the first field that differs; RequestError for an empty text, one beyond the context, or with a token
    that the other tokenizer lacks.
    """
    second = other if isinstance(other, LanguageModel) else one
    _require_one_shape(one.config, second.config)
    ids = one.prompt_ids(TEXT if text is None else text)
    if text is None:
        ids = ids[: one.config.context_length]
    if len(ids) > one.config.context_length:
        raise RequestError(
            f"The text has {len(ids)} tokens, and the model looks at {one.config.context_length} at most.",
            "Shorten it.",
        )
    for place, token in enumerate(ids):
        if token >= second.tokenizer.vocab_size:
            raise RequestError(
                f"The tokenizers differ, and the other one has no id {token}, which is token {place} of the text.",
                "Give a `text` whose ids both have.",
            )
    model = second.model if isinstance(other, LanguageModel) else _in_precision(one.model, other)
    batch = torch.tensor([ids])  # (1, T)
    mine = activations.activations(one.model, batch)
    with torch.autocast(one.model.device.type, torch.bfloat16, enabled=other == "bf16"):
        theirs = activations.activations(model, batch)
    differences = activations.compare(mine, theirs)
    return Comparison(
        ids=tuple(ids),
        tokens=tuple(one.tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids),
        same_tokenizer=one.tokenizer.fingerprint == second.tokenizer.fingerprint,
        settings=_other_settings(one.config, model.config),
        weights=_weights(one.model, model),
        differences=tuple(differences),
        first=activations.first_difference(differences, tolerance),
    )


def _require_one_shape(one: GPTConfig, other: GPTConfig) -> None:
    for field in _SHAPE:
        here, there = getattr(one, field), getattr(other, field)
        if here != there:
            name = "ffn_dim" if field == "feedforward_dim" else field
            raise ModelError(
                f"The two models have different shapes, the first in {name}: {here} and {there}.",
                f"Name two models of one shape, or compare with a precision: {', '.join(PRECISIONS)}.",
            )


def _in_precision(model: GPT, precision: str) -> GPT:
    """The model itself, or one like it with rounded weights."""
    if precision not in _ROUNDED:
        return model
    rounded = copy.deepcopy(model)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(_ROUNDED[precision]).float()
    return rounded


def _other_settings(one: GPTConfig, other: GPTConfig) -> dict[str, tuple[Any, Any]]:
    here, there = one.to_dict(), other.to_dict()
    return {
        name: (here[name], there[name])
        for name in here
        if here[name] != there[name] and name not in _SHAPE and name != "ffn_dim" and "dropout" not in name
    }


def _weights(one: GPT, other: GPT) -> Weights:
    here: dict[str, Tensor] = dict(one.state_dict())
    there: dict[str, Tensor] = dict(other.state_dict())
    both = [name for name in here if name in there]
    differing = tuple(name for name in both if not activations.same_bits(here[name], there[name]))
    return Weights(len(both), differing, tuple(sorted(here.keys() ^ there.keys())))


def _block(difference: Difference) -> int | None:
    """The number of the block that an activation belongs to; None outside of them."""
    found = None if difference.name == "blocks.0.resid_pre" else re.match(r"blocks\.(\d+)", difference.name)
    return int(found.group(1)) if found else None
