"""The objectives of all tasks: running text, conversations (SFT), preference pairs (DPO) and labeled texts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from handloom.data.tokenized import TokenData
from handloom.data.windows import Windows
from handloom.evaluation.scoring import validate
from handloom.model.gpt import GPT
from handloom.model.interface import evaluating
from handloom.model.loss import IGNORE_INDEX, next_token_loss, score_tokens, token_nll
from handloom.tokenizer.base import Tokenizer
from handloom.training.activation_cache import CachedBackbone
from handloom.training.objective import Batch, EvalResult, Objective, autocast, to_device


class NextToken(Objective):
    """Predict each token of running text from those before it, in windows as `windowing` has them (see `Windows`).

    Raises DataError unless there is a window of text to train on, and one to validate with.
    """

    def __init__(self, data: TokenData, tokenizer: Tokenizer, **windowing: Any) -> None:
        data.windows(windowing["context_length"], windowing["stride"])
        self.windows = Windows(data.train.tokens, **windowing)
        super().__init__(self._batch, self.windows.steps_per_epoch, (), data.key)
        self._held_out = data.validation
        # The first token of the held-out text is predicted from nothing, so its bytes do not count.
        self._bytes = data.validation.n_bytes - len(tokenizer.token_bytes(int(data.validation.tokens[0])))

    def _batch(self, step: int) -> Batch:
        """inputs and targets, (B, T) each."""
        inputs, targets = self.windows.batch(step)
        return {"inputs": torch.from_numpy(inputs), "targets": torch.from_numpy(targets)}

    def loss(self, model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
        """The summed NLL of the targets, in nats."""
        batch = to_device(batch, model)
        hidden = (cache or model).hidden(batch["inputs"])  # (B, T, C)
        return next_token_loss(hidden, model.lm_head, batch["targets"])[0]

    def evaluate(self, model: GPT, cache: CachedBackbone | None = None) -> EvalResult:
        """The mean NLL of every held-out token but the first."""
        length, how = self.windows.context_length, {"hidden": cache.hidden} if cache else {}
        found = validate(model, self._held_out.tokens, self._bytes, length, batch_size=self.windows.batch_size, **how)
        return EvalResult(found.nats_per_token, self.unit, {"bits_per_byte": found.bits_per_byte})


@dataclass
class SFT(Objective):
    """Predict every token of an answer, and its end, from what precedes it in its conversation.

    Batches hold `inputs` and `targets` (B, T), and `segments` (B, T) where a row holds several conversations.
    """

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


def dpo_losses(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected)) of each pair, (B,), (B,) -> (B,), in nats.

    `chosen` and `rejected` are the log-likelihoods of the two answers, each minus its reference log-likelihood.
    """
    return -F.logsigmoid(beta * (chosen - rejected))


def answer_logprobs(model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
    """The log-likelihood of each answer after its prompt: (B, 2, T) -> (B, 2) in nats, at most 0."""
    B, _, T = batch["inputs"].shape
    rows = {name: batch[name].reshape(2 * B, T) for name in ("inputs", "targets")}
    hidden, targets = answer_hidden_states(model, rows, cache)  # (N, C), (N)
    nll = token_nll(hidden[None], model.lm_head, targets[None])[0]  # (N)
    answers = (rows["targets"] != IGNORE_INDEX).nonzero()[:, 0].to(nll.device)  # (N), the answer of each token
    return -nll.new_zeros(2 * B).index_add(0, answers, nll).view(B, 2)


@dataclass
class DPO(Objective):
    """Make the preferred answer of each pair likelier than the other, with both near the reference.

    The reference is the model before the first step. Its log-likelihoods are computed once for every pair, when the run
    begins or goes on, so that it need not stay in memory. Batches hold `inputs` and `targets`, (B, 2, T) each, the
    preferred answer first.
    """

    beta: float = 0.1
    unit: ClassVar[str] = "nats/pair"
    _reference: dict[tuple[bool, bytes], Tensor] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def compute_reference_logprobs(self, reference: GPT, precision: str) -> None:
        """Compute the reference log-likelihoods of all answers, those of training in the precision of training and
        the held-out ones in float32."""
        with evaluating(reference):
            for step in range(math.ceil(self.steps_per_epoch)):
                self._store_reference(reference, self.batch(step), precision)
            for batch in self.validation:
                self._store_reference(reference, batch, "fp32")

    def _store_reference(self, reference: GPT, batch: Batch, precision: str) -> None:
        with autocast(reference, precision):
            logprobs = answer_logprobs(reference, batch)  # (B, 2)
        for key, pair in zip(_keys(batch), logprobs, strict=True):
            self._reference[precision == "bf16", key] = pair  # (2)

    def num_targets(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["inputs"])

    def loss(self, model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
        """The summed loss of the pairs."""
        return self._losses(model, batch, cache)[0].sum()

    @torch.no_grad()
    def evaluate(self, model: GPT, cache: CachedBackbone | None = None) -> EvalResult:
        """The mean loss of held-out pairs; how often, and by how much, the preferred answer gained more."""
        with evaluating(model):
            pairs = [self._losses(model, batch, cache) for batch in self.validation]
        losses, margins = (torch.cat(parts) for parts in zip(*pairs, strict=True))  # (N) each
        metrics = {"accuracy": float((margins > 0).float().mean()), "margin": float(margins.mean())}
        return EvalResult(float(losses.mean()), self.unit, metrics)

    def _losses(self, model: GPT, batch: Batch, cache: CachedBackbone | None) -> tuple[Tensor, Tensor]:
        """The loss of each pair, and how much more the preferred answer gained than the other: (B,) each."""
        mixed = torch.is_autocast_enabled(model.device.type)
        stored = [self._reference[mixed, key] for key in _keys(batch)]
        reference = torch.stack(stored).to(model.device)  # (B, 2)
        chosen, rejected = (answer_logprobs(model, batch, cache) - reference).unbind(1)  # (B) each
        return dpo_losses(chosen, rejected, self.beta), self.beta * (chosen - rejected)


def _keys(batch: Batch) -> list[bytes]:
    """A digest of each pair, independent of its padding."""
    keys = []
    for inputs, targets in zip(batch["inputs"].cpu(), batch["targets"].cpu(), strict=True):  # (2, T) each
        digest = hashlib.blake2b(digest_size=16)
        for row, row_targets in zip(inputs, targets, strict=True):
            end = int((row_targets != IGNORE_INDEX).nonzero().max()) + 1
            digest.update(row[:end].numpy().tobytes() + row_targets[:end].numpy().tobytes())
        keys.append(digest.digest())
    return keys


@dataclass
class Classification(Objective):
    """Predict the label of a text from the hidden state of its last token.

    Batches hold `inputs` (B, T), `last` (B,), the position of each text's last token, and `labels` (B,).
    """

    names: tuple[str, ...] = ()
    """Of the labels, in the order of their ids."""
    unit: ClassVar[str] = "nats/text"

    def num_targets(self, batch: Batch) -> int:
        """Texts."""
        return len(batch["labels"])

    def logits(self, model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
        """(B, labels), float32."""
        batch = to_device(batch, model)
        inputs, last = batch["inputs"], batch["last"]
        hidden = cache.hidden(inputs, lengths=last + 1) if cache else model.hidden(inputs)  # (B, T, C)
        rows = torch.arange(len(last), device=last.device)  # (B)
        return model.classify_logits(hidden[rows, last]).float()  # (B, labels)

    def loss(self, model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
        """The summed NLL of the right labels, in nats."""
        return F.cross_entropy(self.logits(model, batch, cache), batch["labels"].to(model.device), reduction="sum")

    @torch.no_grad()
    def evaluate(self, model: GPT, cache: CachedBackbone | None = None) -> EvalResult:
        """The mean NLL of the right labels of all held-out texts, with `confusion_metrics`."""
        with evaluating(model):
            logits = torch.cat([self.logits(model, batch, cache) for batch in self.validation])  # (N, labels)
        labels = torch.cat([batch["labels"] for batch in self.validation]).to(logits.device)  # (N)
        table = confusion(labels, logits.argmax(-1), len(self.names)).cpu()  # (labels, labels)
        metrics, details = confusion_metrics(table, self.names)
        return EvalResult(float(F.cross_entropy(logits, labels)), self.unit, metrics, details)


def confusion(labels: Tensor, predicted: Tensor, number: int) -> Tensor:
    """How often a text of label i (row) was predicted as label j (column): (N,), (N,) -> (number, number)."""
    return torch.bincount(labels * number + predicted, minlength=number * number).view(number, number)


def confusion_metrics(table: Tensor, names: Sequence[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Accuracy and macro F1; and by label name precision, recall, F1 and number of texts, with the matrix.

    F1 is the harmonic mean of precision and recall, 0 where there is neither; macro F1 counts each label alike.
    """
    right, predicted, true = table.diag().double(), table.sum(0).double(), table.sum(1).double()  # (labels) each
    by_label = {
        "precision": right / predicted.clamp(min=1),
        "recall": right / true.clamp(min=1),
        "f1": 2 * right / (predicted + true).clamp(min=1),
    }
    labels = {
        name: {metric: round(float(values[i]), 6) for metric, values in by_label.items()} | {"texts": int(true[i])}
        for i, name in enumerate(names)
    }
    metrics = {"accuracy": float(right.sum() / table.sum()), "f1": float(by_label["f1"].mean())}
    return metrics, {"labels": labels, "confusion": table.tolist()}
