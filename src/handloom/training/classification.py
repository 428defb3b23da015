"""Learn which of a few labels a text has, and say how well that goes: accuracy, F1, confusion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from handloom.model.gpt import GPT
from handloom.model.interface import Backbone
from handloom.training.objective import Batch, EvalResult


class Classification:
    """Choose the label of a text from what the model makes of its last token.

    Args:
        model: whose label head is asked.
        names: of the labels, in the order of their ids.
        batch: the training texts of a step: `inputs` (B, T), `last` (B,) the place of each text's last token,
            `labels` (B,).
        steps_per_epoch: of the training texts.
        validation: the held-out texts, in batches.
        key: of the data.
    """

    unit = "nats/text"
    template: str | None = None

    def __init__(
        self,
        model: GPT,
        names: Sequence[str],
        batch: Callable[[int], Batch],
        steps_per_epoch: float,
        validation: Iterable[Batch],
        data_hash: str,
    ) -> None:
        self.model, self.names, self.batch = model, tuple(names), batch
        self.steps_per_epoch, self.data_hash = steps_per_epoch, data_hash
        self._validation = list(validation)

    def num_targets(self, batch: Batch) -> int:
        """Texts."""
        return len(batch["labels"])

    def tokens(self, batch: Batch) -> int:
        """Those that are read, padding included."""
        return batch["inputs"].numel()

    def scores(self, reader: Backbone, part: Batch) -> Tensor:
        """(B, labels), float32."""
        hidden = reader.hidden(part["inputs"], lengths=part["last"] + 1)  # (B, T, C)
        return self.model.classify_logits(hidden[torch.arange(len(hidden)), part["last"]]).float()

    def loss(self, reader: Backbone, part: Batch) -> Tensor:
        """Summed surprise at the right labels, in nats."""
        return F.cross_entropy(self.scores(reader, part), part["labels"], reduction="sum")

    @torch.no_grad()
    def evaluate(self, reader: Backbone) -> EvalResult:
        """Mean surprise at the right labels of all held-out texts, with what `confusion_figures` says."""
        was_training = reader.training
        reader.eval()
        scores = torch.cat([self.scores(reader, part) for part in self._validation])  # (N, labels)
        labels = torch.cat([part["labels"] for part in self._validation])  # (N)
        reader.train(was_training)
        table = confusion(labels, scores.argmax(-1), len(self.names))
        figures, details = confusion_figures(table, self.names)
        return EvalResult(float(F.cross_entropy(scores, labels)), self.unit, figures, details)


def confusion(labels: Tensor, chosen: Tensor, number: int) -> Tensor:
    """How often a text of label i (row) was given label j (column): (N,), (N,) -> (number, number)."""
    return torch.bincount(labels * number + chosen, minlength=number * number).view(number, number)


def confusion_figures(table: Tensor, names: Sequence[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """What a confusion matrix says.

    Precision of a label is the share of texts given it that have it; recall the share of texts that have it
    that were given it; F1 their harmonic mean, 0 where there is neither. The mean of F1 over labels counts
    each label alike ("macro"), however rare it is.

    Returns:
        accuracy and mean F1; and by name of the label precision, recall, F1 and number, with the matrix.
    """
    right, given, true = table.diag().double(), table.sum(0).double(), table.sum(1).double()
    precision = right / given.clamp(min=1)
    recall = right / true.clamp(min=1)
    f1 = 2 * right / (given + true).clamp(min=1)
    of_labels = {
        name: {
            "precision": round(float(precision[i]), 6),
            "recall": round(float(recall[i]), 6),
            "f1": round(float(f1[i]), 6),
            "texts": int(true[i]),
        }
        for i, name in enumerate(names)
    }
    figures = {"accuracy": float(right.sum() / table.sum()), "f1": float(f1.mean())}
    return figures, {"labels": of_labels, "confusion": table.tolist()}
