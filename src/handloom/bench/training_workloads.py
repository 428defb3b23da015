"""Training that is measured: steps of the training loop itself, over random tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from handloom import runtime
from handloom.bench.kinds import BenchSettings, LoRA, Train
from handloom.bench.workloads import Round, Workload, operations
from handloom.model.gpt import GPT
from handloom.tokenizer import load_tokenizer
from handloom.training.config import FinetuneConfig, LoopSettings, TrainConfig
from handloom.training.finetune_setup import add_adapter
from handloom.training.loop import Progress, Trainer
from handloom.training.objective import Batch, Objective, OpenedData
from handloom.training.progress import Reporter
from handloom.training.setup import TrainingSetup, materialize
from handloom.training.signals import StopRequest
from handloom.training.task_objectives import NextToken

AGREEMENT_STEPS = 2
"""Steps whose losses are compared with those of fp32."""


class RandomTokens(NextToken):
    """Predict the next of random tokens: (B, T) of `settings`, the same in every process."""

    def __init__(self, settings: Train, vocab_size: int) -> None:
        shape = (settings.batch_size, settings.context_length + 1)

        def batch(step: int) -> Batch:
            tokens = torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(step))  # (B, T + 1)
            return {"inputs": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}

        Objective.__init__(self, batch, 1.0, (), data_hash="random tokens")


def train(settings: BenchSettings, model: GPT, precision: str, folder: Path) -> Workload:
    """Optimizer steps; the model is in float32, `precision` that of the matrix products; `folder` gets the metrics."""
    assert isinstance(settings, Train)
    config = _config(settings, precision)
    objective = RandomTokens(settings, model.config.vocab_size)
    materialize(model)
    if isinstance(config, FinetuneConfig):
        add_adapter(config, model, objective, None)
    setup = TrainingSetup(config, load_tokenizer("gpt2"), model, OpenedData(objective, "", {}))
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(folder, setup, Progress(total=10**6), Reporter())
    request = StopRequest()

    def once(done: Round) -> None:
        began = time.perf_counter()
        trainer.step(request)
        done.each.append(time.perf_counter() - began)
        done.tokens += settings.batch_size * settings.context_length
        done.seconds += done.each[-1]

    passes = 2 if isinstance(settings, LoRA) else 3
    """Forward, gradients of activations, and of weights unless they are frozen: each as much arithmetic."""
    facts = {"operations_per_token": passes * operations(model.config, settings.context_length, logits=True)}
    kept = runtime.keeping_freed_memory(setup.fit_memory(Reporter()))
    return Workload(once, _agreement_of(trainer, once), facts, kept)


def _config(settings: Train, precision: str) -> LoopSettings:
    names = ("batch_size", "context_length", "optimizer", "threads")
    shared: dict[str, Any] = {name: getattr(settings, name) for name in names}
    shared |= {"precision": precision, "learning_rate": 1e-4, "sample_every": 0, "steps": 10**6}
    if not isinstance(settings, LoRA):
        return TrainConfig(**shared)
    adapter: dict[str, Any] = {
        "rank": settings.rank,
        "alpha": 2.0 * settings.rank,
        "target_modules": ("blocks.*.attention.qkv",),
    }
    return FinetuneConfig(data=("random tokens",), method="lora", **adapter, **shared)


def _agreement_of(trainer: Trainer, once: Callable[[Round], None]) -> Callable[[Path, bool], dict[str, float] | None]:
    def agreement(file: Path, is_reference: bool) -> dict[str, float] | None:
        for _ in range(AGREEMENT_STEPS):
            once(Round())
        losses = torch.tensor([record["loss"] for record in trainer.log.of_kind("train")])
        if is_reference:
            torch.save(losses, file)
            return None
        reference = torch.load(file, weights_only=True)
        return {"largest_loss_difference": float(((losses - reference) / reference).abs().max())}

    return agreement
