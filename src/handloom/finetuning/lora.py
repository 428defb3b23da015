"""LoRA: beside a frozen matrix a detour of low rank learns. It edits a built model in place.

    y = W x + b                    the layer as it was, frozen
          + s B (A x)              the detour: A narrows to `rank` numbers, B widens again

A matrix of 768 x 3072 has 2.4 million numbers; a detour of rank 8 beside it has 31 thousand. B begins as
zeros, so that the model begins as what it was. Several detours may lie beside one matrix, each with its own
share; merged, they are added into the matrix and cost nothing more. An adapter is such a set of detours, and may
have rows for some tokens as well (`trainable_tokens`).

Knows no files, no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handloom.errors import ConfigError, ModelError
from handloom.finetuning import trainable_tokens
from handloom.finetuning.trainable_tokens import TokenDelta, TrainableTokensEmbedding
from handloom.model.gpt import GPT
from handloom.model.surgery import linear_layers, replace
from handloom.quantization.bf16 import use_dtype_of

LORA_PARAMETERS = ("*.lora_A", "*.lora_B", "*.magnitude")
ADAPTER_PARAMETERS = (*LORA_PARAMETERS, "*.token_deltas.*")
"""Patterns of the parameters that learn in a model with an adapter."""


@dataclass(frozen=True)
class LoRAConfig:
    """What detours are like.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; rank-stabilized scaling from
    Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA"; DoRA from Liu et al. 2024,
    "DoRA: Weight-Decomposed Low-Rank Adaptation".
    """

    rank: int = 8
    """Width of the detour."""
    alpha: float = 16.0
    """The detour is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Probability of dropping an input of the detour while training."""
    target_modules: tuple[str, ...] = ("blocks.*",)
    """Patterns of the names of the linear layers that get one."""
    use_rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead, so that a wide detour learns as fast as a narrow one."""
    use_dora: bool = False
    """Learn the length of each row of the matrix apart from its direction."""
    trainable_tokens: int = 0
    """How many rows of the token embedding learn too."""

    @property
    def scale(self) -> float:
        """s, what the detour is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


class LoRAAdapter(nn.Module):
    """One low-rank detour beside a linear layer of `inputs` -> `outputs` channels.

    Args:
        inputs, outputs: channels of the layer.
        rank: width of the detour.
        scale: s, what it is multiplied by.
        dropout: probability of dropping one of its inputs while training.
        rows: (outputs,) lengths of the rows of the layer's matrix, where they are to be learned (DoRA).
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, dropout: float, rows: Tensor | None) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))
        self.magnitude = None if rows is None else nn.Parameter(rows)
        self.scale, self.dropout = scale, dropout
        self.weight = 1.0
        """How much of the detour is taken: 1 all of it, 0 nothing."""

    def forward(self, x: Tensor, y: Tensor, base: nn.Linear) -> Tensor:
        """What to add to y, which the layer made of x: (..., inputs), (..., outputs) -> (..., outputs)."""
        dropped = F.dropout(x, self.dropout, self.training)  # (..., inputs)
        narrow = F.linear(dropped, self.lora_A)  # (..., rank)
        if self.magnitude is None:
            wide = self.lora_B * (self.scale * self.weight)  # (outputs, rank)
            return F.linear(narrow, wide)  # (..., outputs)
        turn = self.magnitude / self._row_lengths(base.weight)  # (outputs)
        plain = y - base.bias if base.bias is not None else y  # (..., outputs)
        if dropped is not x:
            plain = F.linear(dropped, use_dtype_of(dropped, base.weight))  # (..., outputs)
        turned = turn * self.scale * F.linear(narrow, self.lora_B)  # (..., outputs)
        return self.weight * ((turn - 1) * plain + turned)

    def delta(self, weight: Tensor) -> Tensor:
        """What the detour is to the matrix it lies beside: (outputs, inputs) -> (outputs, inputs), float32."""
        low = self.scale * self.lora_B.detach() @ self.lora_A.detach()  # (outputs, inputs)
        if self.magnitude is None:
            return self.weight * low
        turn = (self.magnitude.detach() / self._row_lengths(weight))[:, None]  # (outputs, 1)
        return self.weight * (turn * (weight.float() + low) - weight.float())

    @torch.no_grad()
    def _row_lengths(self, weight: Tensor) -> Tensor:
        """Lengths of the rows of W + s B A, (outputs,). A constant for the gradient, as in section 4.3 of DoRA."""
        with torch.autocast("cpu", enabled=False):
            low = self.scale * self.lora_B @ self.lora_A  # (outputs, inputs)
            return torch.linalg.vector_norm(weight.float() + low, dim=1)


class LoRALinear(nn.Module):
    """A linear layer with detours beside it, by name."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.adapter_layers = nn.ModuleDict()
        self._apart: Tensor | None = None  # the matrix as it was, while detours are merged into it

    @property
    def merged(self) -> bool:
        """Whether the detours are in the matrix at present."""
        return self._apart is not None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))  # once, for the layer and all its detours
        plain = y = self.base(x)  # (..., outputs)
        if not self.merged:
            for detour in self.laid():
                y = y + detour(x, plain, self.base)
        return y

    def laid(self) -> list[LoRAAdapter]:
        """The detours of which something is taken."""
        return [d for d in self.adapter_layers.values() if isinstance(d, LoRAAdapter) and d.weight]

    @torch.no_grad()
    def merge(self) -> None:
        """Add the detours to the matrix; what it was is kept for `unmerge`."""
        if self.merged:
            return
        weight = self.base.weight
        total = weight.float()  # (outputs, inputs)
        for detour in self.laid():
            total = total + detour.delta(weight)
        self._apart = weight.data
        self.base.weight = nn.Parameter(total.to(weight.dtype), weight.requires_grad)

    def unmerge(self) -> None:
        """Put the matrix back as it was, bit for bit."""
        if self._apart is not None:
            self.base.weight = nn.Parameter(self._apart, self.base.weight.requires_grad)
            self._apart = None


def add_adapter(
    model: GPT, how: LoRAConfig, seed: int, name: str = "adapter", tokens: Tensor | None = None
) -> list[str]:
    """Lay detours beside the linear layers that `how` names, with A drawn and B zero.

    Args:
        model: edited in place.
        how: see `LoRAConfig`.
        seed: of A.
        name: of this set of detours.
        tokens: (n) int64, each once, whose rows of the token embedding are to learn too.

    Returns:
        the names of the layers.

    Raises:
        ConfigError: when a pattern names no linear layer inside the blocks.
    """
    layers = {path: layer for path, layer in linear_layers(model) if named(path, how.target_modules)}
    for pattern in how.target_modules:
        if not any(fnmatchcase(path, pattern) for path, _ in linear_layers(model)):
            known = sorted({path.partition(".")[2].partition(".")[2] for path, _ in linear_layers(model)})
            raise ConfigError(
                f"The pattern {pattern!r} names no linear layer of the model's blocks.",
                f"They are called blocks.0.{known[0]} and so on: {', '.join(known)}. 'blocks.*' names all of them.",
            )
    insert_adapter(model, dict.fromkeys(layers, (how.rank, how.scale)), name, how.dropout, how.use_dora, tokens)
    generator = torch.Generator().manual_seed(seed)
    for detour in adapter_layers(model, name).values():
        bound = 1 / math.sqrt(detour.lora_A.shape[1])
        with torch.no_grad():
            detour.lora_A.uniform_(-bound, bound, generator=generator)
    return list(layers)


def insert_adapter(
    model: GPT,
    layers: Mapping[str, tuple[int, float]],
    name: str,
    dropout: float = 0.0,
    use_dora: bool = False,
    tokens: Tensor | None = None,
) -> None:
    """Lay detours of zeros beside the layers of these names, and rows as they are for some tokens.

    Args:
        model: edited in place.
        layers: rank and scale of the detour beside each.
        name: of this set of detours; a set of that name must not be there.
        dropout, use_dora: as in `LoRAConfig`.
        tokens: (n) int64, each once, whose rows of the token embedding may change.

    Raises:
        ModelError: when there is a set of that name.
    """
    if name in adapters(model):
        raise ModelError(f"The model has an adapter {name!r} already.", "Choose another name for this one.")
    found = dict(linear_layers(model))
    for path, (rank, scale) in layers.items():
        layer = found[path]
        if not isinstance(layer, LoRALinear):
            assert isinstance(layer, nn.Linear)
            layer = LoRALinear(layer)
            replace(model, path, layer)
        layer.unmerge()
        weight = layer.base.weight
        rows = torch.linalg.vector_norm(weight.detach().float(), dim=1) if use_dora else None
        detour = LoRAAdapter(weight.shape[1], weight.shape[0], rank, scale, dropout, rows)
        layer.adapter_layers[name] = detour.train(model.training)
    if tokens is not None:
        trainable_tokens.insert_adapter(model, name, tokens)


def adapter_layers(model: GPT, name: str) -> dict[str, LoRAAdapter]:
    """The detours of one set, by the name of the layer they lie beside."""
    found = {}
    for path, layer in linear_layers(model):
        if isinstance(layer, LoRALinear) and name in layer.adapter_layers:
            detour = layer.adapter_layers[name]
            assert isinstance(detour, LoRAAdapter)
            found[path] = detour
    return found


def adapters(model: GPT) -> dict[str, float]:
    """The adapters that the model has, and how much of each is taken."""
    return {name: parts[0].weight for name, parts in _parts(model).items()}


def set_adapters(model: GPT, weights: Mapping[str, float]) -> None:
    """Take so much of each adapter; those that are not named are switched off.

    Raises:
        ModelError: for an adapter that the model does not have.
    """
    known = _parts(model)
    for name in weights:
        if name not in known:
            raise ModelError(f"The model has no adapter {name!r}.", f"It has: {', '.join(known) or 'none'}.")
    unmerge(model)
    for name, parts in known.items():
        for part in parts:
            part.weight = weights.get(name, 0.0)


def merge(model: GPT) -> None:
    """Add all detours, each with its share, to their matrices: as quick as a model without any."""
    for layer in _changed(model):
        layer.merge()


def unmerge(model: GPT) -> None:
    """Take them out again; the matrices are then what they were, bit for bit."""
    for layer in _changed(model):
        layer.unmerge()


def merge_and_unload(model: GPT) -> None:
    """Merge, and forget the adapters: what is left is a plain model."""
    merge(model)
    unload(model)


def unload(model: GPT) -> None:
    """Forget the adapters; what is not merged is gone."""
    for path, layer in list(linear_layers(model)):
        if isinstance(layer, LoRALinear):
            replace(model, path, layer.base)
    trainable_tokens.unload(model)


def _parts(model: GPT) -> dict[str, list[LoRAAdapter | TokenDelta]]:
    """The detours and rows of each adapter."""
    found: dict[str, list[LoRAAdapter | TokenDelta]] = {}
    for _, layer in linear_layers(model):
        if isinstance(layer, LoRALinear):
            for name, detour in layer.adapter_layers.items():
                assert isinstance(detour, LoRAAdapter)
                found.setdefault(name, []).append(detour)
    for name, rows in trainable_tokens.token_deltas(model).items():
        found.setdefault(name, []).append(rows)
    return found


def _changed(model: GPT) -> Iterator[LoRALinear | TrainableTokensEmbedding]:
    """What takes the place of a part of the model, and can merge what lies beside it."""
    for _, layer in linear_layers(model):
        if isinstance(layer, LoRALinear):
            yield layer
    embedding = model.embedding.token_embedding
    if isinstance(embedding, TrainableTokensEmbedding):
        yield embedding


def named(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns fits the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
