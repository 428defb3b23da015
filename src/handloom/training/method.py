"""The finetuning method: what of a model is trained, and an estimate of its memory."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from handloom import runtime
from handloom.checkpoints import native, peft
from handloom.errors import ConfigError
from handloom.finetuning import lora, trainable
from handloom.finetuning.memory_estimate import MemoryEstimate, MicroBatch, estimate_memory
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.quantization import bf16
from handloom.training.base_config import DEFAULT_BATCH
from handloom.training.config import FinetuneConfig
from handloom.training.objective import Objective, TrainStep, micro_batches
from handloom.training.progress import Reporter

TOKEN_CHOICE_BATCHES = 16
"""Batches whose gradient chooses the trainable tokens."""

MICRO_BATCH_TOKENS = 4096
"""The most tokens in a micro-batch whose size is not given."""


def add_adapter(config: FinetuneConfig, model: GPT, objective: Objective, checkpoint: native.Checkpoint | None) -> None:
    """Freeze the model, and add a LoRA adapter: a new one, or that of a checkpoint."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if config.precision == "bf16":
        bf16.to_bf16(model)
    if checkpoint:
        peft.open_adapter(checkpoint.folder).attach(model)
    else:
        tokens = _tokens_to_train(config, model, objective)
        lora.add_adapter(model, lora_config(config), config.seed, tokens=tokens)


def _tokens_to_train(config: FinetuneConfig, model: GPT, objective: Objective) -> Tensor | None:
    """The `trainable_tokens` tokens with the largest embedding gradient on the first batches, ascending.

    A token that is frequent, but already used as the data uses it, has a small one. One row at a time passes through
    the model, since the gradient of the whole embedding takes memory already.
    """
    if not config.trainable_tokens:
        return None
    embedding = model.embedding.token_embedding.weight
    embedding.requires_grad_(True)
    step_loss = TrainStep(model.eval(), objective, config.precision)
    for step in range(TOKEN_CHOICE_BATCHES):
        batch = objective.batch(step)
        count = objective.num_targets(batch)
        for row in micro_batches(batch, len(batch["inputs"])):
            (step_loss(row) / count).backward()
    assert embedding.grad is not None
    largest = torch.linalg.vector_norm(embedding.grad, dim=1).topk(config.trainable_tokens)
    embedding.requires_grad_(False)
    embedding.grad = None
    return largest.indices.sort().values


def set_trainable(config: FinetuneConfig, model: GPT, objective: Objective, reporter: Reporter) -> None:
    """Make trainable what the method or the patterns name and the loss depends on. Raises ConfigError for nothing."""
    trainable.require_fits(model, config.train_params)
    patterns = config.train_params or trainable.patterns_of(config.method, _trained_shape(config, model.config))
    trainable.set_trainable(model, patterns)
    row = {name: tensor[:1] for name, tensor in objective.batch(0).items()}
    loss = TrainStep(model.eval(), objective, config.precision)(row)
    if unreached := trainable.require_matches(model, loss, config.task):
        reporter.warning(
            f"The loss of the task {config.task} does not depend on {', '.join(unreached)}, which will not change."
        )


def lora_config(config: FinetuneConfig) -> lora.LoRAConfig:
    """The settings of LoRA."""
    names = ("lora_dropout", "target_modules", "use_rslora", "use_dora", "trainable_tokens")
    same = {name: getattr(config, name) for name in names}
    return lora.LoRAConfig(r=config.rank, lora_alpha=config.alpha, **same)


def memory_estimate(config: FinetuneConfig, shape: GPTConfig) -> MemoryEstimate:
    """What each method would train in a model of that shape, and its memory. Raises ConfigError."""
    if config.trainable_tokens > shape.vocab_size:
        raise ConfigError(
            f"The setting trainable_tokens is {config.trainable_tokens}, and the vocabulary has {shape.vocab_size} "
            "tokens.",
            "Lower `trainable_tokens`.",
            setting="trainable_tokens",
        )
    context_length = min(config.context_length or shape.context_length, shape.context_length)
    rows = config.micro_batch_size or micro_batch_size_for(config.batch_size or DEFAULT_BATCH, context_length)
    micro_batch = MicroBatch(rows, context_length, runtime.choose_precision(config.precision) == "bf16")
    return estimate_memory(
        _trained_shape(config, shape),
        config.method,
        lora_config(config),
        micro_batch,
        train=config.train_params,
        untie=config.untie_embeddings,
    )


def micro_batch_size_for(batch_size: int, context_length: int) -> int:
    """The largest divisor of the batch whose rows hold at most `MICRO_BATCH_TOKENS` tokens."""
    divisors = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
    return max((n for n in divisors if n * context_length <= MICRO_BATCH_TOKENS), default=1)


def _trained_shape(config: FinetuneConfig, shape: GPTConfig) -> GPTConfig:
    """The shape without its labels where the task does not train on labels: no method then trains a head for them."""
    return shape if config.task == "classify" else dataclasses.replace(shape, label_names=())
