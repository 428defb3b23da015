"""Supervised finetuning on conversations: predict the assistant's tokens, and no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from handloom.model.gpt import GPT
from handloom.model.interface import evaluating
from handloom.model.loss import IGNORE_INDEX, next_token_loss, score_tokens
from handloom.training.activation_cache import CachedBackbone
from handloom.training.objective import Batch, EvalResult, ExampleObjective, to_device


@dataclass
class SFT(ExampleObjective):
    """Predict every token of an answer, and its end, from what precedes it in its conversation.

    Batches hold `inputs` and `targets` (B, T), and `segments` (B, T) where a row holds several conversations.
    """

    unit: ClassVar[str] = "nats/token"

    def num_targets(self, batch: Batch) -> int:
        """Tokens of answers, their ends included."""
        return int((batch["targets"] != IGNORE_INDEX).sum())

    def loss(self, model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
        """The summed NLL of the answers, in nats."""
        hidden, targets = answer_hidden_states(model, batch, cache)  # (N, C), (N)
        return next_token_loss(hidden[None], model.lm_head, targets[None])[0]

    @torch.no_grad()
    def evaluate(self, model: GPT, cache: CachedBackbone | None = None) -> EvalResult:
        """The mean NLL of all held-out answer tokens, and how often the most probable token was the right one."""
        loss, right, count = 0.0, 0, 0
        with evaluating(model):
            for batch in self.validation:
                hidden, targets = answer_hidden_states(model, batch, cache)  # (N, C), (N)
                scores = score_tokens(hidden, model.lm_head, targets)
                loss += float(scores.nll.sum())
                right += int(scores.is_top1.sum())
                count += len(targets)
        return EvalResult(loss / count, self.unit, {"token_accuracy": right / count})


def answer_hidden_states(model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> tuple[Tensor, Tensor]:
    """The hidden states that predict the answers, and the answers' tokens: (N, C), (N).

    The other positions of a row, often most of them, never reach the head.
    """
    batch = to_device(batch, model)
    mask = batch["targets"] != IGNORE_INDEX  # (B, T)
    if cache is None:
        hidden = model.hidden(batch["inputs"], segment_ids=batch.get("segments"))  # (B, T, C)
    else:
        positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)  # (T)
        lengths = (mask * positions).amax(dim=1)  # (B), up to the last target
        hidden = cache.hidden(batch["inputs"], batch.get("segments"), lengths)  # (B, T, C)
    return hidden[mask], batch["targets"][mask]
