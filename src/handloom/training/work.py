"""What a run works with: a model, its tokenizer, an objective, and how a checkpoint of it is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from handloom.checkpoints import native
from handloom.model.gpt import GPT
from handloom.model.reader import Reader
from handloom.tokenizer.base import Tokenizer
from handloom.training.loop import Save
from handloom.training.objective import Objective
from handloom.training.report import Reporter


@dataclass
class Work:
    """Everything that settings stand for, ready to be trained."""

    tokenizer: Tokenizer
    model: GPT
    """Its parameters that are to be trained have requires_grad."""
    objective: Objective
    save: Save
    described: str
    """The data, in one line for people."""
    report: dict[str, Any]
    """The data in numbers, for `data.json`."""
    reader: Reader | None = None
    """What the objective reads through, if it is not the model itself."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What `summary.json` says beside what every run does."""


def save_whole(model: GPT, tokenizer: Tokenizer) -> Save:
    """Checkpoints that hold all weights."""

    def save(folder: Path, training: dict[str, Any], optimizer: dict[str, Tensor]) -> None:
        native.save(folder, model, tokenizer, training, optimizer)

    return save


def tell(sentences: Iterable[tuple[str, bool]], reporter: Reporter) -> None:
    """Say something about the data, each as a warning if there is something to do about it."""
    for sentence, asks_for_action in sentences:
        (reporter.warning if asks_for_action else reporter.note)(sentence)


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 document`, `2 documents`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
