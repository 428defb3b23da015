"""What an objective is, and the module that the training loop calls. The loop knows no task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from handloom.model.gpt import GPT
from handloom.model.loss import IGNORE_INDEX
from handloom.training.activation_cache import CachedBackbone

Batch = dict[str, Tensor]
"""Tensors by name; the first axis of each is B, so that a batch can be split into micro-batches."""


@dataclass(frozen=True)
class EvalResult:
    """The result of an evaluation on held-out data."""

    loss: float
    """What training minimizes, in the objective's unit."""
    unit: str
    """Of the loss, for example `nats/token`."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Further numbers for people: `bits_per_byte`, `accuracy`."""
    details: dict[str, Any] = field(default_factory=dict)
    """What belongs in the summary of a run only: a confusion matrix."""


@dataclass
class Objective:
    """A task: batches, loss, evaluation. A batch is a pure function of its step, so that no state has to be saved.

    Batches are on the CPU; `loss` and `evaluate` move them to the model's device. `cache` computes the hidden states
    where lower layers are frozen.
    """

    batch: Callable[[int], Batch]
    """The batch of an optimizer step, counted from 0."""
    steps_per_epoch: float
    """Steps until every training example was seen once."""
    validation: Sequence[Batch]
    data_hash: str
    """Of the data: other text, or another order of it, has another hash."""
    chat_template: str | None = None
    """The layout of conversations in tokens (`tokenizer.chat`), saved in checkpoints; None for other tasks."""
    unit: ClassVar[str] = "nats/token"
    """Of the loss."""

    def num_targets(self, batch: Batch) -> int:
        """The divisor of the loss of the whole batch: targets, pairs, examples."""
        return int((batch["targets"] != IGNORE_INDEX).sum())

    def loss(self, model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
        """The summed loss of a micro-batch, a scalar."""
        raise NotImplementedError

    def evaluate(self, model: GPT, cache: CachedBackbone | None = None) -> EvalResult:
        """The loss on all held-out data, in float32, with dropout off."""
        raise NotImplementedError


@dataclass(frozen=True)
class OpenedData:
    """The data of a run, as an objective."""

    objective: Objective
    description: str
    """In one line for people."""
    stats: dict[str, Any]
    """In numbers, for `data.json`."""


class TrainStep(nn.Module):
    """`forward(batch)` is the loss of a micro-batch, in the precision of training.

    It is all that the loop calls, so that DistributedDataParallel or FSDP can wrap it for every task. Checkpoints are
    written from `model`, so parameters keep their own names.
    """

    def __init__(
        self, model: GPT, objective: Objective, precision: str = "fp32", cache: CachedBackbone | None = None
    ) -> None:
        super().__init__()
        self.model, self.objective, self.precision, self.cache = model, objective, precision, cache

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss, a scalar."""
        with autocast(self.model, self.precision):
            return self.objective.loss(self.model, batch, self.cache)

    def evaluate(self) -> EvalResult:
        """The loss on all held-out data."""
        return self.objective.evaluate(self.model, self.cache)

    def train(self, mode: bool = True) -> TrainStep:
        """Switch dropout on or off; cached layers never have any."""
        super().train(mode)
        if self.cache is not None:
            for frozen in (self.model.embedding, *self.model.blocks[: self.cache.layer]):
                frozen.eval()
        return self


def autocast(model: GPT, precision: str) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16 within the block, if that is the precision."""
    return torch.autocast(model.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def to_device(batch: Batch, model: GPT) -> Batch:
    """The batch on the model's device."""
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def micro_batches(batch: Batch, number: int) -> Iterator[Batch]:
    """A batch in that many parts of equal size."""
    for tensors in zip(*(tensor.chunk(number) for tensor in batch.values()), strict=True):
        yield dict(zip(batch, tensors, strict=True))
