"""What a run works with: a model, its tokenizer, an objective, and how a checkpoint of it is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from handloom.checkpoints import native
from handloom.data.omissions import Omissions
from handloom.model.gpt import GPT
from handloom.model.interface import Backbone
from handloom.tokenizer.base import Tokenizer
from handloom.training.config import FinetuneConfig, LoopSettings
from handloom.training.loop import Save
from handloom.training.objective import Objective
from handloom.training.progress import Reporter
from handloom.training.sizes import STEPS, STEPS_AN_EPOCH, batch_size_for


@dataclass
class TrainingSetup:
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
    reader: Backbone | None = None
    """What the objective reads through, if it is not the model itself."""
    needs: tuple[Path, str] | None = None
    """The checkpoint that the run goes on needing, if it is an adapter's base, and its fingerprint."""
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


def batch_size_of(config: FinetuneConfig, rows: int) -> int:
    """Rows in a step: as the settings say, otherwise as suits so many rows; whole micro-batches in any case.

    Where steps or minutes are given, fewer rows in a step would only be less learned, so there need only be so many.
    """
    if config.batch_size is not None:
        return config.batch_size
    by_epochs = config.steps is None and config.minutes is None
    usual, part = batch_size_for(rows, STEPS_AN_EPOCH if by_epochs else 1), config.micro_batch_size or 1
    return max(part, usual // part * part)


def tell_size(config: LoopSettings, objective: Objective, reporter: Reporter) -> Omissions:
    """Say how the batches and steps of a run go together with its data; returns what the steps do not come to."""
    rows = round(objective.steps_per_epoch * config.batch_size)
    if rows < config.batch_size:
        reporter.warning(
            f"The data is {pluralize(rows, 'row')}, fewer than the batch of {config.batch_size}: each step learns from "
            f"the same row several times. --batch-size {batch_size_for(rows)} suits so little data."
        )
    omissions = Omissions()
    if config.minutes is None and (left := rows - (config.steps or STEPS) * config.batch_size) > 0:
        omissions.add("unreached", number=left)
    tell(omissions.sentences(), reporter)
    return omissions


def pluralize(number: int, one: str, many: str | None = None) -> str:
    """`1 document`, `2 documents`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
