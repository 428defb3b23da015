"""Proposes a run for given minutes and memory: steps of a few shapes are timed here, and a formula predicts their loss.

It writes no files and prints nothing; `cli/plan.py` does both.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from handloom.data.tokenized import TokenData
from handloom.errors import ConfigError
from handloom.finetuning.memory_estimate import MicroBatch, peak_bytes
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer
from handloom.training.config import TrainConfig
from handloom.training.loop import Progress, Trainer
from handloom.training.progress import Reporter
from handloom.training.setup import TrainingSetup, open_windows
from handloom.training.signals import StopRequest
from handloom.training.time_budget import EVENTS, MOST_PAUSED

SHAPES = (
    {"layers": 2, "heads": 2, "embed_dim": 96, "context_length": 128},
    {"layers": 2, "heads": 2, "embed_dim": 128, "context_length": 128},
    {"layers": 2, "heads": 3, "embed_dim": 192, "context_length": 128},
    {"layers": 4, "heads": 4, "embed_dim": 256, "context_length": 256},
    {"layers": 6, "heads": 6, "embed_dim": 384, "context_length": 256},
    {"layers": 8, "heads": 8, "embed_dim": 512, "context_length": 256},
)
"""From small to large: a larger one learns more from a token, and takes longer for it."""
METER_SECONDS, METER_STEPS = 2.0, 6
"""How long steps of a shape are timed, and how many at least."""
RESERVE = 0.05
"""Of the time, for samples and saving."""
VALIDATION_COST = 0.4
"""Time of a validated token, in trained ones."""
IRREDUCIBLE, SIZE, TEXT = 1.85, 100.0, 80.0
"""Of the loss, in nats a token of a vocabulary of 4,096: rough, see `predicted_loss`."""
SIZE_EXPONENT, TEXT_EXPONENT, PASSES = 0.34, 0.28, 15.4

Meter = Callable[[TrainingSetup], float]
"""The seconds of an optimizer step."""


@dataclass(frozen=True)
class Prediction:
    """What a run is expected to take and to reach."""

    seconds: float
    memory_bytes: int
    bits_per_byte: float


@dataclass(frozen=True)
class Proposal:
    """A run, and what it is expected to come to."""

    config: TrainConfig
    parameters: int
    steps: int
    tokens_per_second: float
    prediction: Prediction


def step_seconds(setup: TrainingSetup) -> float:
    """Time steps of training: the median of those within `METER_SECONDS`."""
    with tempfile.TemporaryDirectory(prefix="handloom-plan-") as folder:
        trainer = Trainer(Path(folder), setup, Progress(total=10**6), Reporter())
        while trainer.progress.step < METER_STEPS or trainer.timer.seconds < METER_SECONDS:
            trainer.step(StopRequest())
    return trainer.timer.step_seconds()


def predicted_loss(parameters: int, tokens: int, distinct: int) -> float:
    """The validation loss in nats a token after `tokens` tokens of training, of which `distinct` are different.

    E + A / N^0.34 + B / D^0.28, with the exponents of Hoffmann et al. 2022, "Training Compute-Optimal Large Language
    Models". E, A and B are estimates from three runs on `python-docs` (`docs/LOG.md`), not a fit with a known error. A
    token read again counts less (Muennighoff et al. 2023, "Scaling Data-Constrained Language Models").
    """
    repeated = max(0.0, tokens / distinct - 1)
    useful = max(1, min(tokens, distinct)) + distinct * PASSES * (1 - math.exp(-repeated / PASSES))
    return IRREDUCIBLE + SIZE / parameters**SIZE_EXPONENT + TEXT / useful**TEXT_EXPONENT


def propose(base: TrainConfig, memory: int, data: TokenData, tokenizer: Tokenizer, *, meter: Meter) -> Proposal:
    """The run of `base`'s minutes with the lowest predicted loss, of the shapes that fit into `memory` bytes.

    Raises ConfigError where none fits.
    """
    assert base.minutes is not None
    best: Proposal | None = None
    for shape in SHAPES:
        config = dataclasses.replace(base, **shape)  # type: ignore[arg-type]
        model_config = config.model_config(tokenizer.vocab_size)
        at_once = MicroBatch(config.batch_size, model_config.context_length, config.precision == "bf16")
        with torch.device("meta"):
            peak = peak_bytes(GPT(model_config), at_once)
        if peak > memory:
            break
        model = GPT(model_config, config.seed)
        context_length, batch_size = model_config.context_length, config.batch_size
        opened = open_windows(config, data, tokenizer, context_length, batch_size=batch_size)
        each = meter(TrainingSetup(config, tokenizer, model, opened))
        tokens_per_second = batch_size * context_length / each
        once, seconds = VALIDATION_COST * data.validation.n_tokens / tokens_per_second, 60 * base.minutes
        validated = once + max(once, min(EVENTS * once, MOST_PAUSED * seconds))
        steps = max(0.1 * seconds, (1 - RESERVE) * seconds - validated) / each
        parameters = sum(p.numel() for p in model.parameters())
        tokens = int(steps * batch_size * context_length)
        loss = predicted_loss(parameters, tokens, data.train.n_tokens)
        bits = loss / math.log(2) * data.validation.n_tokens / data.validation.n_bytes
        prediction = Prediction(seconds, peak, bits)
        if best is not None and bits >= best.prediction.bits_per_byte:
            break  # over the sizes, the loss falls and then rises
        best = Proposal(config, parameters, max(1, int(steps)), tokens_per_second, prediction=prediction)
    if best is None:
        raise ConfigError(
            f"The smallest model takes {peak / 1e9:.2f} GB while it trains, and memory is {memory / 1e9:.2f} GB.",
            "Give more `memory`.",
            setting="memory",
        )
    return best
