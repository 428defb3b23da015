"""Which of its labels a model gives a text, and how sure it is of each. Knows no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from handloom.errors import ModelError, RequestError
from handloom.inference.prompts import prompt_ids
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer

POLICIES = ("error", "cut")


@dataclass(frozen=True)
class Classified:
    """A text's label."""

    label: str
    """The likeliest."""
    probabilities: dict[str, float]
    """Of every label, in the model's order; their sum is 1."""

    @property
    def probability(self) -> float:
        """Of the label."""
        return self.probabilities[self.label]


@torch.inference_mode()
def classify(
    model: GPT, tokenizer: Tokenizer, texts: Sequence[str], overlong: str = "error", batch_size: int = 16
) -> list[Classified]:
    """The label of each text. What is said of one does not depend on the others.

    Args:
        model: with labels, in evaluation mode.
        tokenizer: the model's.
        texts: not empty ones.
        overlong: what to do with a text longer than the context: `error`, or `cut` its end, as in training.
        batch_size: texts that are read side by side.

    Raises:
        RequestError: for an empty text, or one that is too long.
        ModelError: for a model without labels.
    """
    if overlong not in POLICIES:
        raise RequestError(
            f"overlong is {overlong!r}; it must be {' or '.join(POLICIES)}.", "Choose one of them."
        )
    if not model.config.labels:
        raise ModelError(
            "The model knows no labels, so it cannot tell texts apart by them.",
            "Tune one that does: handloom finetune --task classify --data FILE.",
        )
    names = ["The text"] if len(texts) == 1 else [f"Text {number}" for number in range(1, len(texts) + 1)]
    rows = [
        _ids(tokenizer, text, name, model.config.context, overlong)
        for text, name in zip(texts, names, strict=True)
    ]
    found: list[Classified] = []
    for at in range(0, len(rows), batch_size):
        some = rows[at : at + batch_size]
        longest = max(map(len, some))
        tokens = torch.tensor([ids + [0] * (longest - len(ids)) for ids in some])  # (B, T)
        last = torch.tensor([len(ids) - 1 for ids in some])  # (B)
        hidden = model.hidden(tokens)[torch.arange(len(some)), last]  # (B, C)
        for row in model.label_scores(hidden).float().softmax(-1).tolist():
            probabilities = dict(zip(model.config.labels, row, strict=True))
            found.append(Classified(max(probabilities, key=probabilities.__getitem__), probabilities))
    return found


def _ids(tokenizer: Tokenizer, text: str, name: str, context: int, overlong: str) -> list[int]:
    if not isinstance(text, str) or not text.strip():
        raise RequestError(f"{name} is empty, so there is nothing to classify.", "Give some text.")
    ids = prompt_ids(tokenizer, text, None)
    if len(ids) > context and overlong == "error":
        raise RequestError(
            f"{name} has {len(ids):,} tokens, and the model looks at {context:,} at most.",
            "Shorten it, or pass --overlong cut to leave out its end.",
        )
    return ids[:context]
