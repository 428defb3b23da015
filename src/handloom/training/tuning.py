"""From the settings of a tuning run to what it works with: a model that is there, what of it learns, and from what."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handloom import runtime
from handloom.checkpoints import native, peft
from handloom.data.lint import LintSettings, lint, summary_line
from handloom.errors import CheckpointError, ConfigError
from handloom.finetuning import lora, trainable
from handloom.finetuning.memory_estimate import MemoryEstimate, MicroBatch, estimate_memory
from handloom.loading import ModelSource, attach, base_of, find_model
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.interface import Backbone
from handloom.quantization import bf16
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import template_of
from handloom.training.activation_cache import ActivationStore, CachedBackbone
from handloom.training.config import FinetuneConfig, check_stride
from handloom.training.loop import Save, parts
from handloom.training.objective import NextToken, Objective
from handloom.training.progress import Reporter
from handloom.training.scratch import described, materialize, open_text, prepare_text, reopened
from handloom.training.sizes import FEW_STEPS, USUAL_BATCH
from handloom.training.tasks import open_task
from handloom.training.work import TrainingSetup, batch_size_of, pluralize

LOOKED_AT = 16
"""How many batches are looked at to choose the tokens whose rows learn."""

TOKENS_AT_ONCE = 4096
"""How many tokens a pass holds at most, if nobody says how many rows it is to hold."""


def finetune_setup(
    config: FinetuneConfig, run: Path, reporter: Reporter, checkpoint: native.Checkpoint | None = None
) -> tuple[FinetuneConfig, TrainingSetup]:
    """What the settings ask for, with the weights of the model they name or those of a checkpoint of the run.

    Args:
        config: its threads and precision are decided.
        run: the run's folder, on whose disk frozen blocks are remembered; it may not be there yet.
        reporter: told what happens.
        checkpoint: to go on from.

    Returns:
        the settings with what was left open decided, and the work.

    Raises:
        HandloomError: for settings, data or a model that do not allow it.
    """
    stored = _find_base(config, run, reporter, checkpoint)
    tokenizer = stored.load_tokenizer()
    with_lora = _with_lora(config)
    model = checkpoint.load_model() if checkpoint and not with_lora else stored.load_model()
    base = _begun_with(config, checkpoint, stored, model)
    if with_lora:
        _require_unchanged(model, base, run)
    needs = (stored.folder, base.fingerprint) if _needs_base(config) else None
    materialize(model)
    if config.untie_embeddings:
        model.untie_embeddings()
    model.set_dropout(config.dropout)
    context_length = model.config.context_length if config.context_length is None else config.context_length
    _check_context(context_length, model.config.context_length, config)
    if checkpoint and with_lora and checkpoint.config.label_names:
        model.add_classification_head(checkpoint.config.label_names, config.seed)
    objective, line, report = _objective(
        config, model, tokenizer, context_length, reporter, checkpoint, _reference(config, base, run)
    )
    if objective.template and not checkpoint and template_of(tokenizer) not in (None, objective.template):
        reporter.note(
            "The model has a chat template of its own. It now learns conversations in Handloom's, "
            f"{objective.template}, which takes its place in chats and exports."
        )
    config = _settle(config, objective, context_length, report, reporter)
    how = how_to_detour(config)
    ledger = estimate_for(config, dataclasses.replace(stored.config, label_names=model.config.label_names))
    if with_lora:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        if _keeps_bf16(config):
            bf16.to_bf16(model)
        if checkpoint:
            attach(model, peft.open_adapter(checkpoint.folder))
        else:
            lora.add_adapter(model, how, config.seed, tokens=_tokens_to_learn(config, model, objective))
    _choose(config, model, objective, reporter)
    reporter.ledger(ledger)
    save = _save(model, tokenizer, base, how if with_lora else None)
    reader, rows = _reader(model, config, run)
    summary = {
        "task": config.task,
        "template": objective.template,
        "method": "train" if config.train_params else config.method,
        "base": config.model,
        "trained_parameters": ledger.chosen.cost.parameters,
        "trained_share": round(ledger.chosen.cost.share, 6),
        "predicted_peak_memory_bytes": ledger.chosen.peak_bytes,
    }
    if rows is not None:
        assert isinstance(reader, CachedBackbone)
        line += f" Blocks 0 to {reader.layer - 1} are frozen, and computed once for each row."
    return config, TrainingSetup(tokenizer, model, objective, save, line, report, reader, needs, summary)


def _choose(config: FinetuneConfig, model: GPT, objective: Objective, reporter: Reporter) -> None:
    """Let learn what the method or the patterns name and the loss reaches.

    Raises:
        ConfigError: for a pattern that fits nothing, or when nothing that learns is reached.
    """
    trainable.require_fits(model, config.train_params)
    patterns = config.train_params or trainable.patterns_of(config.method, _learning_shape(config, model.config))
    trainable.set_trainable(model, patterns)
    part = {name: tensor[:1] for name, tensor in objective.batch(0).items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        loss = objective.loss(model.eval(), part)
    if apart := trainable.require_matches(model, loss, config.task):
        reporter.warning(
            f"The loss of the task {config.task} does not depend on {', '.join(apart)}, which will not change."
        )


def _learning_shape(config: FinetuneConfig, shape: GPTConfig) -> GPTConfig:
    """The shape without its labels, where the task has none: a head for them then learns with no method."""
    return shape if config.task == "classify" else dataclasses.replace(shape, label_names=())


def estimate_for(config: FinetuneConfig, shape: GPTConfig) -> MemoryEstimate:
    """What each way to tune a model of that shape would train and cost, with these settings.

    Raises:
        ConfigError: for a pattern that fits nothing, last:N with more blocks than there are, or rows for more
            tokens than there are.
    """
    if config.trainable_tokens > shape.vocab_size:
        raise ConfigError(
            f"trainable_tokens is {config.trainable_tokens}, but the model has {shape.vocab_size} tokens.",
            "Give --trainable-tokens a smaller number.",
        )
    context_length = min(config.context_length or shape.context_length, shape.context_length)
    rows = config.micro_batch_size or rows_at_once(config.batch_size or USUAL_BATCH, context_length)
    at_once = MicroBatch(rows, context_length, runtime.choose_precision(config.precision) == "bf16")
    shape = _learning_shape(config, shape)
    return estimate_memory(
        shape, config.method, how_to_detour(config), at_once, config.train_params, config.untie_embeddings
    )


def rows_at_once(batch_size: int, context_length: int) -> int:
    """How many rows go through the model together, if nobody says: as many as hold `TOKENS_AT_ONCE`."""
    fitting = [n for n in range(1, batch_size + 1) if batch_size % n == 0 and n * context_length <= TOKENS_AT_ONCE]
    return max(fitting, default=1)


def how_to_detour(config: FinetuneConfig) -> lora.LoRAConfig:
    """LoRA as the settings ask for it."""
    return lora.LoRAConfig(
        config.rank,
        config.alpha,
        config.lora_dropout,
        config.target_modules,
        config.use_rslora,
        config.use_dora,
        config.trainable_tokens,
    )


def _objective(
    config: FinetuneConfig,
    model: GPT,
    tokenizer: Tokenizer,
    context_length: int,
    reporter: Reporter,
    checkpoint: native.Checkpoint | None,
    reference: Callable[[], GPT],
) -> tuple[Objective, str, dict[str, Any]]:
    """What is learned from what, described for people and in numbers."""
    if config.task != "text":
        opened = open_task(config, model, tokenizer, context_length, reporter, reference)
        if checkpoint is None:
            _check_examples(config, tokenizer, context_length, reporter)
        return opened
    data = reopened(config, tokenizer, checkpoint)
    if data is None:
        data = prepare_text(config, open_text(config), tokenizer, reporter)
    size = batch_size_of(config, data.windows(context_length, config.stride))
    objective = NextToken(
        data, tokenizer, context_length=context_length, stride=config.stride, batch_size=size, seed=config.seed
    )
    line, report = described(data)
    return objective, line, {**report, "batch_size": size}


def _check_examples(config: FinetuneConfig, tokenizer: Tokenizer, context_length: int, reporter: Reporter) -> None:
    """Say what `handloom data check` finds in examples that can be learned from, but badly."""
    settings = LintSettings(
        task=config.task,
        context_length=context_length,
        encoding_errors=config.encoding_errors,
        validation_fraction=config.validation_fraction,
        overlong=config.overlong,
    )
    if told := summary_line(lint(config.data, tokenizer, settings)):
        reporter.warning(told)


def _find_base(
    config: FinetuneConfig, run: Path, reporter: Reporter, checkpoint: native.Checkpoint | None
) -> ModelSource:
    """The model that is to be tuned, or that is being tuned by a run that goes on.

    Raises:
        CheckpointError: when it cannot be used.
    """
    if checkpoint is None:
        return find_model(config.model, reporter.note)
    base = _remembered(checkpoint)
    if not _needs_base(config):  # its shape and tokenizer are enough, which all checkpoints of a run share
        base = dataclasses.replace(base, checkpoint=None)
    try:
        return base_of(base, checkpoint.folder, reporter.note)
    except CheckpointError as error:
        raise CheckpointError(
            f"The run {run} tunes the model {config.model}, which cannot be used. {error.problem}", error.remedy
        ) from None


def _begun_with(
    config: FinetuneConfig, checkpoint: native.Checkpoint | None, stored: ModelSource, model: GPT
) -> native.BaseModelRef:
    """What a run was begun with; when it begins, that is `model`, which lies in `stored`."""
    if checkpoint is not None:
        return _remembered(checkpoint)
    of_a_run = stored.folder.parent.name == native.CHECKPOINTS
    return native.BaseModelRef(config.model, native.fingerprint(model), stored.folder.name if of_a_run else None)


def _remembered(checkpoint: native.Checkpoint) -> native.BaseModelRef:
    """What the run of a checkpoint was begun with."""
    return native.BaseModelRef(**checkpoint.training["base"])


def _require_unchanged(model: GPT, base: native.BaseModelRef, run: Path) -> None:
    """Raise CheckpointError unless this is the model, as it was loaded, that a run was begun with."""
    if native.fingerprint(model) != base.fingerprint:
        raise CheckpointError(
            f"The run {run} tunes the model {base.name}, whose weights are not what they were when it began.",
            "Put them back as they were, or begin a new run.",
        )


def _reference(config: FinetuneConfig, base: native.BaseModelRef, run: Path) -> Callable[[], GPT]:
    """How to get the model as it was before the first step, in the precision that it is trained in."""

    def load() -> GPT:
        model = base_of(base, run, lambda note: None).load_model()
        _require_unchanged(model, base, run)
        if _keeps_bf16(config):
            bf16.to_bf16(model)
        return model

    return load


def _with_lora(config: FinetuneConfig) -> bool:
    return config.method == "lora" and not config.train_params


def _needs_base(config: FinetuneConfig) -> bool:
    """Whether a run goes on needing the weights of the model that it began with."""
    return _with_lora(config) or config.task == "dpo"


def _tokens_to_learn(config: FinetuneConfig, model: GPT, objective: Objective) -> Tensor | None:
    """The tokens whose rows of the token embedding are to learn, if any are: those that the data asks most of.

    That is told by the gradient of the first `LOOKED_AT` batches: the rows for which it is longest. A token that is
    frequent but already used as the data uses it gets a short one. One example at a time goes through the model, since
    the gradient of the whole embedding takes memory already.
    """
    if not config.trainable_tokens:
        return None
    embedding = model.embedding.token_embedding.weight
    embedding.requires_grad_(True)
    model.eval()
    for step in range(LOOKED_AT):
        batch = objective.batch(step)
        count = objective.num_targets(batch)
        for part in parts(batch, len(batch["inputs"])):
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                loss = objective.loss(model, part)
            (loss / count).backward()
    assert embedding.grad is not None
    longest = torch.linalg.vector_norm(embedding.grad, dim=1).topk(config.trainable_tokens)
    embedding.requires_grad_(False)
    embedding.grad = None
    return longest.indices.sort().values


def _keeps_bf16(config: FinetuneConfig) -> bool:
    """Whether the matrices that detours lie beside are kept in bfloat16."""
    return _with_lora(config) and config.precision == "bf16"


def _settle(
    config: FinetuneConfig, objective: Objective, context_length: int, report: dict[str, Any], reporter: Reporter
) -> FinetuneConfig:
    """Decide what was left open, so that it is written down and stays."""
    chosen: dict[str, Any] = {"learning_rate": config.peak_learning_rate, "context_length": context_length}
    chosen |= {name: report[name] for name in ("batch_size", "pack") if name in report}
    questions: Sequence[str] = report.get("questions", ())
    if config.steps is None and config.minutes is None:
        chosen["steps"] = steps = max(1, math.ceil(config.epochs * objective.steps_per_epoch))
        if steps < FEW_STEPS:
            reporter.warning(
                f"With so little data --epochs {config.epochs:g} comes to {pluralize(steps, 'step')}, which is few to "
                f"learn from. --epochs {math.ceil(FEW_STEPS / objective.steps_per_epoch)} makes it {FEW_STEPS} or more."
            )
    if config.micro_batch_size is None:
        chosen["micro_batch_size"] = rows_at_once(chosen["batch_size"], context_length)
    if config.task == "classify" and config.sample_every is None:
        chosen["sample_every"] = 0  # what it says of texts is in its figures
    if questions and config.sample_prompts == FinetuneConfig.sample_prompts:
        chosen["sample_prompts"] = tuple(questions)
    return dataclasses.replace(config, **chosen)


def _check_context(context_length: int, limit: int, config: FinetuneConfig) -> None:
    if context_length > limit:
        raise ConfigError(
            f"The setting context is {context_length}, and the model looks at {limit} tokens at most.",
            f"Give --context-length {limit} or less, or leave it out.",
        )
    check_stride(config.stride, context_length)


def _reader(model: GPT, config: FinetuneConfig, run: Path) -> tuple[Backbone | None, ActivationStore | None]:
    """What the objective reads through: something that remembers what frozen blocks said, if there are any."""
    layer = trainable.first_trainable_layer(model)
    if layer is None:
        return None, None
    rows = None
    if config.cache_activations and layer > 0:
        there = next(folder for folder in (run, *run.absolute().parents) if folder.is_dir())
        rows = ActivationStore(there)
    return CachedBackbone(model, layer, rows), rows


def _save(model: GPT, tokenizer: Tokenizer, base: native.BaseModelRef, how: lora.LoRAConfig | None) -> Save:
    """Checkpoints that know what the run was begun with; with LoRA they hold the adapter alone."""

    def save(folder: Path, training: dict[str, Any], optimizer: dict[str, Tensor]) -> None:
        def write(aside: Path) -> None:
            assert how is not None
            peft.write_adapter(aside, model, how, base.name)

        native.save(
            folder,
            model,
            tokenizer,
            {**training, "base": dataclasses.asdict(base)},
            optimizer,
            (base, write) if how else None,
        )

    return save
