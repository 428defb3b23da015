"""From the settings of finetuning to what it trains: the base model, its trainable parameters, the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handloom.checkpoints import native
from handloom.console import pluralize
from handloom.errors import CheckpointError, ConfigError
from handloom.finetuning import trainable
from handloom.loading import ModelSource, base_of, find_model
from handloom.model import surgery
from handloom.model.gpt import GPT
from handloom.quantization import bf16
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import template_of
from handloom.training import language_modeling as text
from handloom.training.activation_cache import ActivationStore, CachedBackbone
from handloom.training.base_config import FEW_STEPS
from handloom.training.config import FinetuneConfig, check_stride
from handloom.training.method import add_adapter, lora_config, memory_estimate, micro_batch_size_for, set_trainable
from handloom.training.progress import Reporter
from handloom.training.setup import TrainingSetup, materialize, save_with
from handloom.training.tasks import OpenedData, batch_size_of, open_task


def finetune_setup(
    config: FinetuneConfig, run: Path, reporter: Reporter, checkpoint: native.Checkpoint | None = None
) -> TrainingSetup:
    """What finetuning trains (threads and precision are decided): its base model, or that of a checkpoint of the run.

    Activations are cached on the disk of `run`, which need not exist yet. Raises HandloomError.
    """
    source = _open_base(config, run, reporter, checkpoint)
    tokenizer = source.load_tokenizer()
    model = checkpoint.load_model() if checkpoint and not config.with_lora else source.load_model()
    base = _base_of_run(checkpoint) if checkpoint else _base_ref(config, source, model)
    if config.with_lora:
        _require_unchanged(model, base, run)
    config = _prepare_model(model, config, checkpoint)
    reference = _reference(config, base, run)
    data = _open_data(config, model, tokenizer, reporter, checkpoint=checkpoint, reference=reference)
    objective = data.objective
    if objective.chat_template and not checkpoint and template_of(tokenizer) not in (None, objective.chat_template):
        reporter.note(
            "The model has a chat template of its own. It is now trained on conversations in Handloom's, "
            f"{objective.chat_template}, which replaces it in chats and exports."
        )
    config = _decide(config, data, reporter)
    shape = dataclasses.replace(source.config, label_names=model.config.label_names)
    estimate = memory_estimate(config, shape)
    if config.with_lora:
        add_adapter(config, model, objective, checkpoint)
    set_trainable(config, model, objective, reporter)
    reporter.memory_estimate(estimate)
    cache = _activation_cache(config, model, run)
    if cache is not None and cache.store is not None:
        line = f"{data.description} Blocks 0 to {cache.layer - 1} are frozen, and computed once for each row."
        data = dataclasses.replace(data, description=line)
    summary = {
        "task": config.task,
        "template": objective.chat_template,
        "method": "train" if config.train_params else config.method,
        "base": config.model,
        "trained_parameters": estimate.chosen.cost.parameters,
        "trained_share": round(estimate.chosen.cost.share, 6),
        "predicted_peak_memory_bytes": estimate.chosen.peak_bytes,
    }
    needs = (source.folder, base.fingerprint) if _needs_base(config) else None
    save = save_with(model, tokenizer, base, lora_config(config) if config.with_lora else None)
    return TrainingSetup(config, tokenizer, model, data, save=save, cache=cache, needs=needs, summary=summary)


# The base model


def _open_base(
    config: FinetuneConfig, run: Path, reporter: Reporter, checkpoint: native.Checkpoint | None
) -> ModelSource:
    """The model that is to be finetuned, or that a resumed run began with. Raises CheckpointError."""
    if checkpoint is None:
        return find_model(config.model, reporter.note)
    base = _base_of_run(checkpoint)
    if not _needs_base(config):  # its shape and tokenizer are enough, which all checkpoints of a run share
        base = dataclasses.replace(base, checkpoint=None)
    try:
        return base_of(base, checkpoint.folder, reporter.note)
    except CheckpointError as error:
        raise CheckpointError(
            f"The run {run} finetunes the model {config.model}, which cannot be used. {error.problem}", error.remedy
        ) from None


def _base_ref(config: FinetuneConfig, source: ModelSource, model: GPT) -> native.BaseModelRef:
    """The reference to `model`, loaded from `source`, that a new run keeps."""
    of_a_run = source.folder.parent.name == native.CHECKPOINTS
    return native.BaseModelRef(config.model, native.fingerprint(model), source.folder.name if of_a_run else None)


def _base_of_run(checkpoint: native.Checkpoint) -> native.BaseModelRef:
    return native.BaseModelRef(**checkpoint.training["base"])


def _needs_base(config: FinetuneConfig) -> bool:
    """Whether a run goes on needing the weights of its base model."""
    return config.with_lora or config.task == "dpo"


def _require_unchanged(model: GPT, base: native.BaseModelRef, run: Path) -> None:
    """Raise CheckpointError unless `model`, as it was loaded, is the one that the run began with."""
    if native.fingerprint(model) != base.fingerprint:
        raise CheckpointError(
            f"The run {run} finetunes the model {base.name}, whose weights have changed since it began.",
            "Put them back as they were, or begin a new run.",
        )


def _reference(config: FinetuneConfig, base: native.BaseModelRef, run: Path) -> Callable[[], GPT]:
    """Loads the model before the first step, in the precision in which it is trained."""

    def load() -> GPT:
        model = base_of(base, run, lambda note: None).load_model()
        _require_unchanged(model, base, run)
        if config.with_lora and config.precision == "bf16":
            bf16.to_bf16(model)
        return model

    return load


# The model


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
    check_stride(config.stride, context_length)
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


# The data, and what it decides


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
        return open_task(config, model, tokenizer, reporter, reference=reference)
    assert config.context_length is not None
    tokens = text.reopen_text(config, tokenizer, checkpoint)
    if tokens is None:
        tokens = text.prepare_text(config, text.open_text(config), tokenizer, reporter)
    windowing = {"context_length": config.context_length, "stride": config.stride, "seed": config.seed}
    size = batch_size_of(config, tokens.windows(config.context_length, config.stride))
    objective = text.NextToken(tokens, tokenizer, batch_size=size, **windowing)
    description, stats = text.describe_text(tokens)
    return OpenedData(objective, description, {**stats, "batch_size": size})


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
