"""What a run is to achieve: where its batches come from, what its loss is, how it is examined.

The loop (`loop`) knows none of this; it asks an objective. Here is what they have in common, and the
first of them: predict the next token of running text. `tasks` opens the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from handloom.data.tokenized import TokenData
from handloom.data.windows import Windows
from handloom.evaluation.loss import validate
from handloom.model.interface import Backbone
from handloom.model.loss import IGNORE_INDEX, next_token_loss
from handloom.tokenizer.base import Tokenizer

Batch = dict[str, Tensor]
"""Tensors by name; the first axis of each is B, so that a batch can be cut into parts."""


@dataclass(frozen=True)
class EvalResult:
    """What an examination on held-out data found."""

    loss: float
    """What the run is to bring down, in its objective's unit."""
    unit: str
    """Of the loss, for example `nats/token`."""
    figures: dict[str, float] = field(default_factory=dict)
    """What else is worth a line: `bits_per_byte`, `accuracy`."""
    details: dict[str, Any] = field(default_factory=dict)
    """What belongs in the summary of a run only: a confusion matrix."""


class Objective(Protocol):
    """What the loop asks. A batch is a pure function of its step, so that nothing has to be remembered."""

    unit: str
    """Of the loss."""
    data_hash: str
    """Of the data: another text or another order of it has another key."""
    steps_per_epoch: float
    """Steps until every training example was seen once."""
    template: str | None
    """How conversations are laid out in tokens (`tokenizer.chat`); None where none are learned. A checkpoint tells
    it, so that whoever talks to the model does it in the way that was learned."""

    def batch(self, step: int) -> Batch:
        """What optimizer step `step`, counted from 0, learns from."""

    def num_targets(self, batch: Batch) -> int:
        """What the loss of the whole batch is divided by: targets, pairs, examples."""

    def tokens(self, batch: Batch) -> int:
        """Tokens that the model reads for it."""

    def loss(self, reader: Backbone, part: Batch) -> Tensor:
        """The summed loss of a part of a batch, a scalar."""

    def evaluate(self, reader: Backbone) -> EvalResult:
        """The loss on all held-out data, in float32, with dropout off."""


class NextToken:
    """Predict each token of running text from those before it.

    Args:
        data: prepared tokens.
        tokenizer: they were made with.
        context: T, tokens in a window.
        stride, batch_size, seed: as `Windows` takes them.

    Raises:
        DataError: unless there is a window of text to learn from, and some to validate with.
    """

    unit = "nats/token"
    template: str | None = None

    def __init__(
        self,
        data: TokenData,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        stride: int | None,
        batch_size: int,
        seed: int,
    ) -> None:
        data.windows(context_length, stride)
        self.windows = Windows(
            data.train.tokens, context_length=context_length, stride=stride, batch_size=batch_size, seed=seed
        )
        self.data_hash, self.steps_per_epoch = data.key, self.windows.steps_per_epoch
        self._validation, self._context, self._batch_size = data.validation, context_length, batch_size
        # The first token of the held-out text is predicted from nothing, so its bytes do not count.
        self._bytes = data.validation.n_bytes - len(tokenizer.token_bytes(int(data.validation.tokens[0])))

    def batch(self, step: int) -> Batch:
        """inputs and targets, (B, T) each."""
        inputs, targets = self.windows.batch(step)
        return {"inputs": torch.from_numpy(inputs), "targets": torch.from_numpy(targets)}

    def num_targets(self, batch: Batch) -> int:
        """Targets."""
        return int((batch["targets"] != IGNORE_INDEX).sum())

    def tokens(self, batch: Batch) -> int:
        """All of them."""
        return batch["inputs"].numel()

    def loss(self, reader: Backbone, part: Batch) -> Tensor:
        """Surprise at the targets, in nats."""
        hidden = reader.hidden(part["inputs"])  # (B, T, C)
        return next_token_loss(hidden, reader.lm_head, part["targets"])[0]

    def evaluate(self, reader: Backbone) -> EvalResult:
        """Surprise at every held-out token but the first."""
        found = validate(reader, self._validation.tokens, self._bytes, self._context, self._batch_size)
        return EvalResult(found.nats_per_token, self.unit, {"bits_per_byte": found.bits_per_byte})
