"""Finetuning on labeled texts, with accuracy, F1 and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from handloom.model.gpt import GPT
from handloom.model.interface import evaluating
from handloom.training.activation_cache import CachedBackbone
from handloom.training.objective import Batch, EvalResult, ExampleObjective, to_device


@dataclass
class Classification(ExampleObjective):
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
