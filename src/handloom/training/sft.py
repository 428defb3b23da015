"""Learn to answer: predict the assistant's tokens, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from handloom.model.interface import Backbone, evaluating
from handloom.model.loss import IGNORE_INDEX, next_token_loss, score_tokens
from handloom.training.objective import Batch, EvalResult


class SFT:
    """Predict every token of an answer, and its end, from what stands before it in its conversation.

    Args:
        batch: the training rows of a step: `inputs` and `targets` (B, T), and `segments` (B, T) where a row holds
            several conversations.
        steps_per_epoch: of the training rows.
        validation: the held-out rows, in batches.
        key: of the data.
        template: how conversations are laid out in tokens.
    """

    unit = "nats/token"

    def __init__(
        self,
        batch: Callable[[int], Batch],
        steps_per_epoch: float,
        validation: Iterable[Batch],
        data_hash: str,
        template: str,
    ) -> None:
        self.batch, self.steps_per_epoch, self.data_hash = batch, steps_per_epoch, data_hash
        self.template: str | None = template
        self._validation = list(validation)

    def num_targets(self, batch: Batch) -> int:
        """Tokens of answers, their ends included."""
        return int((batch["targets"] != IGNORE_INDEX).sum())

    def tokens(self, batch: Batch) -> int:
        """Those that are read, padding included."""
        return batch["inputs"].numel()

    def loss(self, reader: Backbone, part: Batch) -> Tensor:
        """Surprise at the answers, in nats."""
        hidden, targets = answer_hidden_states(reader, part)
        return next_token_loss(hidden[None], reader.lm_head, targets[None])[0]

    @torch.no_grad()
    def evaluate(self, reader: Backbone) -> EvalResult:
        """Mean surprise at all held-out answers; and how often the likeliest token was the right one."""
        loss, right, count = 0.0, 0, 0
        with evaluating(reader):
            for part in self._validation:
                hidden, targets = answer_hidden_states(reader, part)
                scores = score_tokens(hidden, reader.lm_head, targets)
                loss += float(scores.nll.sum())
                right += int(scores.is_top1.sum())
                count += len(targets)
        return EvalResult(loss / count, self.unit, {"token_accuracy": right / count})


def answer_hidden_states(reader: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
    """The hidden states that answers are predicted from, and those answers' tokens: (N, C), (N).

    The other positions of a row, most of them often, never meet the head.
    """
    counts = part["targets"] != IGNORE_INDEX  # (B, T)
    places = torch.arange(1, counts.shape[1] + 1)  # (T)
    lengths = (counts * places).amax(dim=1)  # (B), up to the last target
    hidden = reader.hidden(part["inputs"], segments=part.get("segments"), lengths=lengths)  # (B, T, C)
    return hidden[counts], part["targets"][counts]
