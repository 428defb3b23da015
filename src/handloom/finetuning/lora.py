"""LoRA: a trainable low-rank update next to each frozen linear layer. It edits a built model in place.

    y = W x + b                    the layer as it was, frozen
          + s B (A x)              the update: A narrows to `rank` numbers, B widens again

B starts as zeros, so that the model starts as what it was. A layer may have several updates, each with its own weight;
merged, they are added into the matrix and cost nothing more. An adapter is such a set of updates, and may have rows for
some tokens as well (`trainable_tokens`). Knows no files, no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

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
    """Settings of LoRA, named as in PEFT.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; rank-stabilized scaling from
    Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA"; DoRA from Liu et al. 2024,
    "DoRA: Weight-Decomposed Low-Rank Adaptation".
    """

    r: int = 8
    """Rank of the update."""
    lora_alpha: float = 16.0
    """The update is multiplied by lora_alpha / r."""
    lora_dropout: float = 0.0
    """Probability of dropping an input of A while training."""
    target_modules: tuple[str, ...] = ("blocks.*",)
    """Patterns of the names of the linear layers that get one."""
    use_rslora: bool = False
    """Multiply by lora_alpha / sqrt(r) instead, so that updates of any rank learn at the same pace."""
    use_dora: bool = False
    """Learn the length of each row of the matrix apart from its direction."""
    trainable_tokens: int = 0
    """How many rows of the token embedding learn too."""

    @property
    def scale(self) -> float:
        """s, what the update is multiplied by."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


class LoRAAdapter(nn.Module):
    """One low-rank update of a linear layer of `inputs` -> `outputs` channels.

    It is multiplied by `scale`; `rows` are (outputs,) the lengths of the rows of the layer's matrix, where they are
    trained too (DoRA).
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, dropout: float, rows: Tensor | None) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))
        self.magnitude = None if rows is None else nn.Parameter(rows)
        self.scale, self.dropout = scale, dropout
        self.weight = 1.0
        """The update is multiplied by this as well; 0 switches it off."""

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
        """The update as a matrix to add to the layer's: (outputs, inputs) -> (outputs, inputs), float32."""
        low = self.scale * self.lora_B.detach() @ self.lora_A.detach()  # (outputs, inputs)
        if self.magnitude is None:
            return self.weight * low
        turn = (self.magnitude.detach() / self._row_lengths(weight))[:, None]  # (outputs, 1)
        return self.weight * (turn * (weight.float() + low) - weight.float())

    @torch.no_grad()
    def _row_lengths(self, weight: Tensor) -> Tensor:
        """Lengths of the rows of W + s B A, (outputs,). A constant for the gradient, as in section 4.3 of DoRA."""
        with torch.autocast(weight.device.type, enabled=False):
            low = self.scale * self.lora_B @ self.lora_A  # (outputs, inputs)
            return torch.linalg.vector_norm(weight.float() + low, dim=1)


class LoRALinear(nn.Module):
    """A linear layer with LoRA updates, by the name of their adapter."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.adapter_layers: dict[str, LoRAAdapter] = nn.ModuleDict()  # type: ignore[assignment]
        self._apart: Tensor | None = None  # the matrix as it was, while updates are merged into it

    @property
    def merged(self) -> bool:
        """Whether the updates are in the matrix at present."""
        return self._apart is not None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # once, for the layer and all its updates
        plain = y = self.base(x)  # (..., outputs)
        if not self.merged:
            for update in self.active():
                y = y + update(x, plain, self.base)
        return y

    def active(self) -> list[LoRAAdapter]:
        """The updates whose weight is not 0."""
        return [update for update in self.adapter_layers.values() if update.weight]

    @torch.no_grad()
    def merge(self) -> None:
        """Add the updates to the matrix; what it was is kept for `unmerge`."""
        if self.merged:
            return
        weight = self.base.weight
        total = weight.float()  # (outputs, inputs)
        for update in self.active():
            total = total + update.delta(weight)
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
    """Add LoRA updates to the linear layers that `how` names; A is random, B zero.

    The rows of `tokens`, (n) int64, each once, of the token embedding are trained too. Returns the names of the
    layers. Raises ConfigError for a pattern that fits no linear layer of the blocks.
    """
    paths = [path for path, _ in linear_layers(model)]
    for pattern in how.target_modules:
        if not any(fnmatchcase(path, pattern) for path in paths):
            known = sorted({path.split(".", 2)[2] for path in paths})
            raise ConfigError(
                f"The pattern {pattern!r} names no linear layer of the model's blocks.",
                f"They are called blocks.0.{known[0]} and so on: {', '.join(known)}. 'blocks.*' names all of them.",
            )
    sizes = {path: (how.r, how.scale) for path in paths if named(path, how.target_modules)}
    insert_adapter(model, sizes, name, dropout=how.lora_dropout, use_dora=how.use_dora, tokens=tokens)
    generator = torch.Generator().manual_seed(seed)
    for update in adapter_layers(model, name).values():
        bound = 1 / math.sqrt(update.lora_A.shape[1])
        with torch.no_grad():
            update.lora_A.uniform_(-bound, bound, generator=generator)
    return list(sizes)


def insert_adapter(
    model: GPT,
    layers: Mapping[str, tuple[int, float]],
    name: str,
    dropout: float = 0.0,
    use_dora: bool = False,
    tokens: Tensor | None = None,
) -> None:
    """Add updates of zeros to the layers of these names, and rows as they are for some tokens.

    `layers` gives rank and scale of the update of each; `tokens`, (n) int64, each once, whose rows of the token
    embedding may change. Raises ModelError when there is an adapter of that name.
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
        update = LoRAAdapter(weight.shape[1], weight.shape[0], rank, scale, dropout=dropout, rows=rows)
        layer.adapter_layers[name] = update.train(model.training)
    if tokens is not None:
        trainable_tokens.insert_adapter(model, name, tokens)


def lora_layers(model: GPT) -> dict[str, LoRALinear]:
    """The linear layers with updates, by path."""
    return {path: layer for path, layer in linear_layers(model) if isinstance(layer, LoRALinear)}


def adapter_layers(model: GPT, name: str) -> dict[str, LoRAAdapter]:
    """The updates of one adapter, by the path of their layer."""
    layers = lora_layers(model)
    return {path: layer.adapter_layers[name] for path, layer in layers.items() if name in layer.adapter_layers}


def adapters(model: GPT) -> dict[str, float]:
    """The adapters that the model has, and how much of each is taken."""
    return {name: parts[0].weight for name, parts in _parts(model).items()}


def set_adapters(model: GPT, weights: Mapping[str, float]) -> None:
    """Take so much of each adapter; those that are not named are switched off.

    Raises ModelError for an adapter that the model does not have.
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
    """Add all updates, each with its weight, to their matrices: as quick as a model without any."""
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
    for path, layer in lora_layers(model).items():
        replace(model, path, layer.base)
    trainable_tokens.unload(model)


def _parts(model: GPT) -> dict[str, list[LoRAAdapter | TokenDelta]]:
    """The updates and rows of each adapter."""
    found: dict[str, list[LoRAAdapter | TokenDelta]] = {}
    sets: list[Mapping[str, Any]] = [layer.adapter_layers for layer in lora_layers(model).values()]
    for updates in (*sets, trainable_tokens.token_deltas(model)):
        for name, update in updates.items():
            found.setdefault(name, []).append(update)
    return found


def _changed(model: GPT) -> list[LoRALinear | TrainableTokensEmbedding]:
    """What takes the place of a part of the model, and can merge its updates."""
    embedding: nn.Module = model.embedding.token_embedding
    return [*lora_layers(model).values(), *([embedding] if isinstance(embedding, TrainableTokensEmbedding) else [])]


def named(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns fits the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
