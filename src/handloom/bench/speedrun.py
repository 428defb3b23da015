"""The time to a validation loss on the characters of a text: our recipe and the plain one, in the same run.

Both are settings of `handloom train` and take the steps of its loop, on the same text. What counts is the time of the
optimizer steps until a validation reaches the target; validations are not in it, and nothing is compiled.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from handloom import runtime
from handloom.bench.kinds import Speedrun
from handloom.data.text_io import ReadOptions, read_text
from handloom.data.windows import Windows
from handloom.errors import DataError
from handloom.model.gpt import GPT
from handloom.training.config import TrainConfig
from handloom.training.loop import Progress, Trainer
from handloom.training.objective import Objective
from handloom.training.progress import Reporter
from handloom.training.setup import TrainingSetup
from handloom.training.signals import StopRequest
from handloom.training.task_objectives import NextToken

CONTEXT = 64
PLAIN = TrainConfig(
    layers=4,
    heads=4,
    embed_dim=128,
    context_length=CONTEXT,
    batch_size=12,
    steps=2000,
    optimizer="adamw",
    learning_rate=1e-3,
    min_lr_ratio=0.1,
    warmup_steps=100,
    schedule="cosine",
    beta2=0.99,
    precision="fp32",
)
"""nanoGPT's own settings for Shakespeare on a processor (its README)."""
OURS = TrainConfig(
    layers=2, heads=2, embed_dim=128, context_length=CONTEXT, batch_size=12, steps=480, learning_rate=1.6e-2
)
RECIPES = {"ours": OURS, "plain": PLAIN}
FIRST_VALIDATION, VALIDATION_EVERY = 0.8, 0.02
"""Fractions of a recipe's steps: the target is looked for from the first one on."""


class Characters(NextToken):
    """Predict each character of a text: windows of its first nine tenths, validated on all the rest."""

    def __init__(self, text: str, batch_size: int, seed: int) -> None:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")  # (N,)
        alphabet, ids = np.unique(codes, return_inverse=True)
        cut = len(ids) * 9 // 10
        if len(ids) - cut < 2 or cut <= CONTEXT:
            raise DataError(
                f"The text has {len(ids):,} characters, too few for windows of {CONTEXT}.", "Take a longer text."
            )
        self.vocab_size = len(alphabet)
        self.windows = Windows(ids[:cut], context_length=CONTEXT, batch_size=batch_size, seed=seed)
        Objective.__init__(self, self._batch, self.windows.steps_per_epoch, (), data_hash="characters")
        held_out: Any = SimpleNamespace(tokens=ids[cut:])
        self._held_out, self._bytes = held_out, len(ids) - cut - 1


@dataclass(frozen=True)
class Result:
    """One recipe's way to the target."""

    name: str
    seconds: float
    """Of the optimizer steps until the validation that reached the target, or of all steps."""
    steps: int
    loss: float
    """Of that validation, in nats a character."""
    reached: bool
    parameters: int
    tokens: int


def run(name: str, config: TrainConfig, text: str, target: float) -> Result:
    """Train by the recipe until a validation is at most `target`, or to its end.

    Raises DataError for a text that is too short.
    """
    threads, precision = runtime.set_num_threads(config.threads), runtime.choose_precision(config.precision)
    config = dataclasses.replace(config, threads=threads, precision=precision)
    data = Characters(text, config.batch_size, config.seed)
    model = GPT(config.model_config(data.vocab_size), config.seed)
    opened: Any = SimpleNamespace(objective=data)
    no_tokenizer: Any = None
    setup = TrainingSetup(config, no_tokenizer, model, opened)
    steps = config.steps or 0
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(total=steps)
        trainer = Trainer(Path(folder), setup, progress, Reporter())
        loss = math.inf
        while loss > target and progress.step < steps:
            trainer.step(StopRequest())
            if is_validated(progress.step, steps):
                loss = data.evaluate(model).loss
    parameters = sum(p.numel() for p in model.parameters())
    seconds, reached = progress.step_seconds, loss <= target
    return Result(name, seconds, progress.step, loss, reached=reached, parameters=parameters, tokens=progress.tokens)


def is_validated(step: int, steps: int) -> bool:
    """Whether the target is looked for after this step."""
    return step == steps or (step >= FIRST_VALIDATION * steps and step % max(1, round(VALIDATION_EVERY * steps)) == 0)


def race(settings: Speedrun, on_round: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Race both recipes, in turns, and return the report for JSON.

    `speedup` is None where a recipe never reached the target.

    Raises:
        DataError: for a text that cannot be read or is too short.
    """
    text = "".join(read_text(Path(settings.data), settings.data, ReadOptions()))
    results: dict[str, list[Result]] = {name: [] for name in RECIPES}
    for _ in range(settings.rounds):
        for name, config in RECIPES.items():
            on_round(name)
            results[name].append(run(name, config, text, settings.target))
    seconds = {name: statistics.median(result.seconds for result in found) for name, found in results.items()}
    reached = all(result.reached for found in results.values() for result in found)
    return {
        "target": settings.target,
        "clock": "optimizer steps; neither validations nor the start of the process",
        "speedup": seconds["plain"] / seconds["ours"] if reached else None,
        "recipes": {name: dataclasses.asdict(config) for name, config in RECIPES.items()},
        "rounds": {name: [dataclasses.asdict(result) for result in found] for name, found in results.items()},
        "versions": runtime.versions(),
    }
