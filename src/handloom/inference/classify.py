"""Labels and their probabilities for a text, or the values of a regression. Knows no files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from handloom.errors import ModelError, RequestError, require_type
from handloom.inference.prompts import prompt_ids
from handloom.model.config import MULTI_LABEL, REGRESSION
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer

POLICIES = ("error", "truncate")


@dataclass(frozen=True)
class Classification:
    """The labels of a text, or, from a model for regression, its values."""

    problem_type: str
    values: dict[str, float]
    """Of every label, in the model's order: its probability; from a model for regression, its value."""

    @property
    def probabilities(self) -> dict[str, float]:
        """Of every label; empty for regression. They sum to 1 where a text has a single label."""
        return {} if self.problem_type == REGRESSION else self.values

    @property
    def label(self) -> str | None:
        """The likeliest, however unlikely it is; None for regression."""
        return max(self.probabilities, key=self.probabilities.__getitem__, default=None)

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of the text: the likeliest alone, or each of at least 50 % where a text may have several."""
        if self.problem_type == MULTI_LABEL:
            return tuple(label for label, probability in self.values.items() if probability >= 0.5)
        return () if self.label is None else (self.label,)

    @property
    def probability(self) -> float:
        """Of the label; NaN for regression."""
        return math.nan if self.label is None else self.values[self.label]


def label_values(logits: Tensor, problem_type: str) -> Tensor:
    """Logits of labels (..., labels) -> probabilities or values, as transformers has them for each problem type."""
    if problem_type == REGRESSION:
        return logits
    # Of a single label the softmax would always be 1.
    alone = problem_type == MULTI_LABEL or logits.shape[-1] == 1
    return logits.sigmoid() if alone else logits.softmax(-1)


@torch.inference_mode()
def classify(
    model: GPT, tokenizer: Tokenizer, texts: Sequence[str], overlong: str = "error", batch_size: int = 16
) -> list[Classification]:
    """Classify each text, by a model with a classification head in evaluation mode.

    A result does not depend on the other texts, of which `batch_size` are read together. The end of a text beyond the
    context is left out, as in training, where `overlong` is "truncate".

    Raises:
        RequestError: for an empty text, or one that is too long.
        ModelError: for a model without labels.
    """
    config = model.config
    if overlong not in POLICIES:
        raise RequestError(
            f"overlong is {overlong!r}; it must be {' or '.join(POLICIES)}.", "Choose one of them.", setting="overlong"
        )
    if not config.label_names:
        raise ModelError(
            "The model does not have a classification head.", "Tune one: handloom finetune (`task=classify`)."
        )
    names = ["The text"] if len(texts) == 1 else [f"Text {number}" for number in range(1, len(texts) + 1)]
    rows = [_ids(tokenizer, text, name) for text, name in zip(texts, names, strict=True)]
    for name, ids in zip(names, rows, strict=True):
        if len(ids) > config.context_length and overlong == "error":
            raise RequestError(
                f"{name} has {len(ids):,} tokens, and the model's context is {config.context_length:,}.",
                "Shorten it, or pass `overlong=truncate` to leave out its end.",
                setting="overlong",
            )
    found: list[Classification] = []
    for at in range(0, len(rows), batch_size):
        some = [ids[: config.context_length] for ids in rows[at : at + batch_size]]
        longest = max(map(len, some))
        tokens = torch.tensor([ids + [0] * (longest - len(ids)) for ids in some], device=model.device)  # (B, T)
        last = torch.tensor([len(ids) - 1 for ids in some], device=model.device)  # (B)
        hidden = model.hidden(tokens)[torch.arange(len(some), device=model.device), last]  # (B, C)
        for values in label_values(model.classify_logits(hidden).float(), config.problem_type).tolist():
            found.append(Classification(config.problem_type, dict(zip(config.label_names, values, strict=True))))
    return found


def _ids(tokenizer: Tokenizer, text: str, name: str) -> list[int]:
    require_type(text, name, str, "a str; handloom.inference.classify takes a list of them")
    if not text.strip():
        raise RequestError(f"{name} is empty, so there is nothing to classify.", "Give some text.")
    return prompt_ids(tokenizer, text, None)
