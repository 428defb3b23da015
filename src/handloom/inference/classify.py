"""Which of its labels a model gives a text, and how sure it is of each; or its values. Knows no files."""

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
    """What a model says of a text: which labels it has, or, of a model for regression, its values."""

    problem_type: str
    values: dict[str, float]
    """Of every label, in the model's order: its probability; of a model for regression, its score as it is."""

    @property
    def probabilities(self) -> dict[str, float]:
        """Of every label; nothing of a model for regression. Their sum is 1 where a text has a single label."""
        return {} if self.problem_type == REGRESSION else self.values

    @property
    def label(self) -> str | None:
        """The likeliest, however unlikely it is; None of a model for regression."""
        return max(self.probabilities, key=self.probabilities.__getitem__, default=None)

    @property
    def labels(self) -> tuple[str, ...]:
        """All that the text has: the likeliest alone, or each of at least 50 % where a text may have several."""
        if self.problem_type == MULTI_LABEL:
            return tuple(label for label, probability in self.values.items() if probability >= 0.5)
        return () if self.label is None else (self.label,)

    @property
    def probability(self) -> float:
        """Of the label; not a number of a model for regression."""
        return math.nan if self.label is None else self.values[self.label]


def label_values(scores: Tensor, problem_type: str) -> Tensor:
    """Scores of labels (..., labels) -> what they mean, as transformers computes it for each problem type."""
    if problem_type == REGRESSION:
        return scores
    # Of a single label the softmax would always be 1.
    alone = problem_type == MULTI_LABEL or scores.shape[-1] == 1
    return scores.sigmoid() if alone else scores.softmax(-1)


@torch.inference_mode()
def classify(
    model: GPT, tokenizer: Tokenizer, texts: Sequence[str], overlong: str = "error", batch_size: int = 16
) -> list[Classification]:
    """The labels of each text, or its values. What is said of one does not depend on the others.

    Args:
        model: with labels, in evaluation mode.
        tokenizer: the model's.
        texts: not empty ones.
        overlong: what to do with a text longer than the context: `error`, or `truncate` (its end), as in training.
        batch_size: texts that are read side by side.

    Raises:
        RequestError: for an empty text, or one that is too long.
        ModelError: for a model without labels.
    """
    if overlong not in POLICIES:
        raise RequestError(f"overlong is {overlong!r}; it must be {' or '.join(POLICIES)}.", "Choose one of them.")
    if not model.config.label_names:
        raise ModelError(
            "The model knows no labels, so it cannot tell texts apart by them.",
            "Tune one that does: handloom finetune --task classify --data FILE.",
        )
    names = ["The text"] if len(texts) == 1 else [f"Text {number}" for number in range(1, len(texts) + 1)]
    rows = [
        _ids(tokenizer, text, name, model.config.context_length, overlong)
        for text, name in zip(texts, names, strict=True)
    ]
    found: list[Classification] = []
    problem_type = model.config.problem_type
    for at in range(0, len(rows), batch_size):
        some = rows[at : at + batch_size]
        longest = max(map(len, some))
        tokens = torch.tensor([ids + [0] * (longest - len(ids)) for ids in some])  # (B, T)
        last = torch.tensor([len(ids) - 1 for ids in some])  # (B)
        hidden = model.hidden(tokens)[torch.arange(len(some)), last]  # (B, C)
        for row in label_values(model.classify_logits(hidden).float(), problem_type).tolist():
            found.append(Classification(problem_type, dict(zip(model.config.label_names, row, strict=True))))
    return found


def _ids(tokenizer: Tokenizer, text: str, name: str, context_length: int, overlong: str) -> list[int]:
    require_type(text, name, str, "a str; handloom.inference.classify takes a list of them")
    if not text.strip():
        raise RequestError(f"{name} is empty, so there is nothing to classify.", "Give some text.")
    ids = prompt_ids(tokenizer, text, None)
    if len(ids) > context_length and overlong == "error":
        raise RequestError(
            f"{name} has {len(ids):,} tokens, and the model looks at {context_length:,} at most.",
            "Shorten it, or pass --overlong truncate to leave out its end.",
        )
    return ids[:context_length]
