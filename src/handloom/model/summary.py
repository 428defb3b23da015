"""What a model is made of: its parts, their parameters, and the arithmetic of one token, read from its modules."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from handloom.errors import ModelError
from handloom.model.attention import AttentionCore
from handloom.model.config import GPTConfig
from handloom.model.embedding import TiedHead
from handloom.model.gpt import GPT

_NAMES = {
    "token_embedding": "token embedding", "position_embedding": "position embedding", "attention_norm": "LayerNorm",
    "feedforward_norm": "LayerNorm", "final_norm": "LayerNorm", "qkv": "attention qkv", "core": "attention",
    "out": "attention out", "up": "feed-forward up", "down": "feed-forward down", "lm_head": "head",
    "classifier": "head for labels",
}  # fmt: skip
"""What people call the module of that name."""


@dataclass(frozen=True)
class ModulePart:
    """One row of the table."""

    name: str
    shape: str
    count: int = 0
    """How many of them the model has."""
    parameters: int = 0
    """In all of them together."""
    flops: int = 0
    """Floating-point operations for one token, forward, in all of them together (a multiply-add is two)."""


def model_summary(config: GPTConfig, position: int | None = None) -> list[ModulePart]:
    """The parts of a model of that shape, in the order a token meets them. A tied head has no parameters of its own.

    `position` is how many tokens attention looks back at; half the context, the mean in training, if not given.
    """
    try:
        with torch.device("meta"):  # a block without weights stands for all of them
            model = GPT(dataclasses.replace(config, layers=1))
    except RuntimeError as error:
        raise ModelError(f"No model of this shape can be built: {error}.", "Correct its numbers.") from None
    seen = config.context_length // 2 if position is None else position
    parts: dict[str, ModulePart] = {}
    for path, module in model.named_modules():
        place, flops = path.rpartition(".")[2], 0
        name = _NAMES.get(place, "")
        match module:
            case AttentionCore():
                shape, flops = f"{config.heads} heads of {config.head_dim}", 4 * seen * config.embed_dim
            case nn.LayerNorm():
                shape, flops = str(module.normalized_shape[0]), 8 * module.normalized_shape[0]
            case nn.Embedding():
                shape = f"{module.num_embeddings} x {module.embedding_dim}"
            case nn.Linear() | TiedHead():
                outputs, inputs = module.weight.shape
                shape, flops = f"{inputs} -> {outputs}", 0 if place == "classifier" else 2 * inputs * outputs
                name += " (tied)" if isinstance(module, TiedHead) else ""
            case _:
                continue
        times = config.layers if path.startswith("blocks.") else 1
        before, numbers = parts.get(name, ModulePart(name, shape)), sum(p.numel() for p in module.parameters())
        sums = before.count + times, before.parameters + times * numbers, before.flops + times * flops
        parts[name] = ModulePart(name, shape, *sums)
    return list(parts.values())


def parameter_count(config: GPTConfig) -> int:
    """How many numbers the model learns, before any part of it is made, since no machine may hold it."""
    C, F, V = config.embed_dim, config.feedforward_dim, config.vocab_size
    block = 2 * 2 * C + (C + 1) * (3 * C + C + F) + (F + 1) * C
    heads = len(config.label_names) + (0 if config.tie_embeddings else V)
    return (V + config.context_length + heads) * C + config.layers * block + 2 * C
