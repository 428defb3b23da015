"""From the settings of finetuning to what it trains: the base model, its trainable parameters, the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handloom import runtime
from handloom.checkpoints import native, peft
from handloom.console import pluralize
from handloom.errors import ConfigError
from handloom.finetuning import lora, trainable
from handloom.finetuning.memory_estimate import MemoryEstimate, MicroBatch, estimate_memory
from handloom.loading import base_of, find_model, require_base
from handloom.model import surgery
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.quantization import bf16
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import template_of
from handloom.training.activation_cache import ActivationStore, CachedBackbone
from handloom.training.config import DEFAULT_BATCH, FEW_STEPS, FinetuneConfig
from handloom.training.objective import Objective, OpenedData, TrainStep, micro_batches
from handloom.training.progress import Reporter
from handloom.training.setup import TrainingSetup, materialize, open_text, open_windows, prepare_text, reopen_text
from handloom.training.tasks import batch_size_of, open_task

TOKEN_CHOICE_BATCHES = 16
"""Batches whose gradient chooses the trainable tokens."""

MICRO_BATCH_TOKENS = 4096
"""The most tokens in a micro-batch whose size is not given."""


def finetune_setup(
    config: FinetuneConfig, run: Path, reporter: Reporter, checkpoint: native.Checkpoint | None = None
) -> TrainingSetup:
    """What finetuning trains (threads and precision are decided): its base model, or that of a checkpoint of the run.

    Activations are cached on the disk of `run`, which need not exist yet. Raises HandloomError.
    """
    needs_base = config.with_lora or config.task == "dpo"
    if checkpoint is None:
        source = find_model(config.model, reporter.note)
        model, of_a_run = source.load_model(), source.folder.parent.name == native.CHECKPOINTS
        base = native.BaseModelRef(config.model, native.fingerprint(model), source.folder.name if of_a_run else None)
    else:
        base = native.BaseModelRef(**checkpoint.training["base"])
        # Without the weights, shape and tokenizer are enough, which all checkpoints of a run share.
        wanted = base if needs_base else dataclasses.replace(base, checkpoint=None)
        source = base_of(wanted, checkpoint.folder, reporter.note)
        model = source.load_model() if config.with_lora else checkpoint.load_model()
        if config.with_lora:
            require_base(model, base, run, source.folder)
    tokenizer = source.load_tokenizer()
    config = _prepare_model(model, config, checkpoint)

    def reference() -> GPT:
        """The model before the first step, in the precision in which it is trained."""
        before = base_of(base, run, lambda note: None)
        loaded = before.load_model()
        require_base(loaded, base, run, before.folder)
        if config.with_lora and config.precision == "bf16":
            bf16.to_bf16(loaded)
        return loaded

    data = _open_data(config, model, tokenizer, reporter, checkpoint=checkpoint, reference=reference)
    objective = data.objective
    config = _decide(config, data, reporter)
    estimate = memory_estimate(config, dataclasses.replace(source.config, label_names=model.config.label_names))
    if config.with_lora:
        add_adapter(config, model, objective, checkpoint)
    set_trainable(config, model, objective, reporter)
    reporter.memory_estimate(estimate)
    setup = TrainingSetup(config, tokenizer, model, data, base=base, cache=_activation_cache(config, model, run))
    if setup.cache is not None and setup.cache.store is not None:
        line = f"{data.description} Blocks 0 to {setup.cache.layer - 1} are frozen, and computed once for each row."
        setup.data = dataclasses.replace(data, description=line)
    setup.adapter = lora_config(config) if config.with_lora else None
    setup.needs = source.folder if needs_base else None
    setup.summary = {
        "task": config.task,
        "template": objective.chat_template,
        "method": "train" if config.train_params else config.method,
        "base": config.model,
        "trained_parameters": estimate.chosen.cost.parameters,
        "trained_share": round(estimate.chosen.cost.share, 6),
        "predicted_peak_memory_bytes": estimate.chosen.peak_bytes,
    }
    return setup


def _prepare_model(model: GPT, config: FinetuneConfig, checkpoint: native.Checkpoint | None) -> FinetuneConfig:
    """Edit the model as the settings have it; returns them with the context length decided. Raises ConfigError."""
    materialize(model)
    if config.untie_embeddings:
        surgery.untie_embeddings(model)
    surgery.set_dropout(model, config.dropout)
    limit = model.config.context_length
    context_length = limit if config.context_length is None else config.context_length
    if context_length > limit:
        raise ConfigError(
            f"The setting context_length is {context_length}, and the model's context length is {limit}.",
            f"Pass `context_length={limit}` or less, or leave it out.",
            setting="context_length",
        )
    config.require_stride(context_length)
    if checkpoint and config.with_lora and checkpoint.config.label_names:
        surgery.add_classification_head(model, checkpoint.config.label_names, config.seed)
    return dataclasses.replace(config, context_length=context_length)


def _activation_cache(config: FinetuneConfig, model: GPT, run: Path) -> CachedBackbone | None:
    """What computes the frozen lower layers, if there are any."""
    layer = trainable.first_trainable_layer(model)
    if layer is None:
        return None
    use_disk = config.cache_activations and layer > 0
    existing = next(folder for folder in (run, *run.absolute().parents) if folder.is_dir())
    return CachedBackbone(model, layer, ActivationStore(existing) if use_disk else None)


def _open_data(
    config: FinetuneConfig,
    model: GPT,
    tokenizer: Tokenizer,
    reporter: Reporter,
    checkpoint: native.Checkpoint | None,
    reference: Callable[[], GPT],
) -> OpenedData:
    if config.task != "text":
        if checkpoint is None:
            reporter.note("`handloom data check` finds duplicates and other weaknesses of examples before a run.")
        data = open_task(config, model, tokenizer, reporter, reference=reference)
        template = data.objective.chat_template
        if template and not checkpoint and template_of(tokenizer) not in (None, template):
            reporter.note(
                "The model has a chat template of its own. It is now trained on conversations in Handloom's, "
                f"{template}, which replaces it in chats and exports."
            )
        return data
    length = config.context_length
    assert length is not None
    tokens = reopen_text(config, tokenizer, checkpoint)
    if tokens is None:
        tokens = prepare_text(config, open_text(config), tokenizer, reporter)
    size = batch_size_of(config, tokens.windows(length, config.stride))
    data = open_windows(config, tokens, tokenizer, length, batch_size=size)
    data.stats["batch_size"] = size
    return data


def _decide(config: FinetuneConfig, data: OpenedData, reporter: Reporter) -> FinetuneConfig:
    """Decide what was left open, so that it is written down and stays."""
    decided: dict[str, Any] = {"learning_rate": config.peak_learning_rate}
    decided |= {name: data.stats[name] for name in ("batch_size", "pack") if name in data.stats}
    if config.steps is None and config.minutes is None:
        per_epoch = data.objective.steps_per_epoch
        decided["steps"] = steps = max(1, math.ceil(config.epochs * per_epoch))
        if steps < FEW_STEPS:
            reporter.warning(
                f"With so little data `epochs={config.epochs:g}` amounts to {pluralize(steps, 'step')}, which is few "
                f"to learn from. `epochs={math.ceil(FEW_STEPS / per_epoch)}` makes it {FEW_STEPS} or more."
            )
    if config.micro_batch_size is None:
        decided["micro_batch_size"] = micro_batch_size_for(decided["batch_size"], config.context_length or 1)
    if config.task == "classify" and config.sample_every is None:
        decided["sample_every"] = 0  # generated texts show nothing of a classifier
    if data.stats.get("questions") and config.sample_prompts == FinetuneConfig.sample_prompts:
        decided["sample_prompts"] = tuple(data.stats["questions"])
    return dataclasses.replace(config, **decided)


# The method: what of the model is trained


def add_adapter(config: FinetuneConfig, model: GPT, objective: Objective, checkpoint: native.Checkpoint | None) -> None:
    """Freeze the model, and add a LoRA adapter: a new one, or that of a checkpoint."""
    model.requires_grad_(False)
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
    length = min(config.context_length or shape.context_length, shape.context_length)
    rows = config.micro_batch_size or micro_batch_size_for(config.batch_size or DEFAULT_BATCH, length)
    in_bf16 = runtime.choose_precision(config.precision) == "bf16"
    use = config.gradient_checkpointing == "on"
    at_once = MicroBatch(rows, length, in_bf16, kept=runtime.can_keep_memory(), checkpointing=use)
    more: dict[str, Any] = {"train": config.train_params, "untie": config.untie_embeddings}
    return estimate_memory(_trained_shape(config, shape), config.method, lora_config(config), at_once, **more)


def micro_batch_size_for(batch_size: int, context_length: int) -> int:
    """The largest divisor of the batch whose rows hold at most `MICRO_BATCH_TOKENS` tokens."""
    divisors = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
    return max((n for n in divisors if n * context_length <= MICRO_BATCH_TOKENS), default=1)


def _trained_shape(config: FinetuneConfig, shape: GPTConfig) -> GPTConfig:
    """The shape without its labels where the task does not train on labels: no method then trains a head for them."""
    return shape if config.task == "classify" else dataclasses.replace(shape, label_names=())
