"""Every setting of a run, with its default and its meaning, stated once.

Flags, `--help`, TOML files and the documentation are made from these dataclasses. Knows no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom.data.faults import TEXT_FIELD
from handloom.data.separator import LIMITS, is_separator
from handloom.errors import ConfigError
from handloom.model.config import GPTConfig, preset
from handloom.settings import Rule, Settings, merge_settings, setting
from handloom.tokenizer.base import END_OF_TEXT
from handloom.training import schedule
from handloom.training.sizes import STEPS, STEPS_AN_EPOCH, USUAL_BATCH


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which text, how it is read, and what of it is held out."""

    data: tuple[str, ...] = setting(
        ("python-docs",),
        "What to learn from: files, folders, globs, - for stdin, or the built-in python-docs and python-source.",
        path=True,
    )
    text_field: str = setting(TEXT_FIELD, "Field of a record (.jsonl, .json, .csv, ...) that holds its text.")
    json_as_text: bool = setting(False, "Learn JSON as the text it is, with its braces and field names.")
    encoding_errors: str = setting("strict", "Bytes that are not UTF-8: strict (an error) or replace.")
    document_separator: str = setting(
        END_OF_TEXT, 'Line between two documents of a text file; "" for none: a file is one document.'
    )
    validation_fraction: float = setting(0.1, "Share of the documents held out for validation.")
    split: str = setting("auto", "How to hold out: documents, tail (the end of each document), or auto.")

    def rules(self) -> Iterator[Rule]:
        """What each value has to be."""
        yield from super().rules()
        yield "encoding_errors", self.encoding_errors in ("strict", "replace"), "strict or replace"
        yield "document_separator", is_separator(self.document_separator), LIMITS
        yield "split", self.split in ("auto", "documents", "tail"), "auto, documents or tail"
        yield "validation_fraction", 0 < self.validation_fraction < 1, "above 0 and below 1"


@dataclass(frozen=True)
class ModelSettings(Settings):
    """What is built before it is trained: a vocabulary and a model."""

    tokenizer: str = setting(
        "learn", "learn (from the training text), gpt2, or a folder with vocab.json and merges.txt.", path=True
    )
    vocab_size: int = setting(4096, "Size of the vocabulary when the tokenizer is learned.")

    preset: str = setting("nano", "Model size to start from; see `handloom model presets`.")
    layers: int | None = setting(None, "Transformer blocks; None: as the preset.")
    heads: int | None = setting(None, "Attention heads; None: as the preset.")
    embed_dim: int | None = setting(None, "Channels of the residual stream; None: as the preset.")
    context_length: int | None = setting(None, "Tokens the model can look at; None: as the preset.")
    dropout: float = setting(0.0, "Probability of dropping an activation while training.")

    def rules(self) -> Iterator[Rule]:
        """What each value has to be."""
        yield from super().rules()
        yield "vocab_size", self.vocab_size >= 257, "at least 257: every byte and the end of text"

    def model_config(self, vocab_size: int) -> GPTConfig:
        """The model to build, for a tokenizer of that many ids."""
        named = {name: getattr(self, name) for name in ("layers", "heads", "embed_dim", "context_length")}
        chosen = {name: value for name, value in named.items() if value is not None}
        return dataclasses.replace(preset(self.preset), vocab_size=vocab_size, dropout=self.dropout, **chosen)


@dataclass(frozen=True)
class LoopSettings(Settings):
    """How long and in what way to train, whatever is trained on whatever data."""

    steps: int | None = setting(None, f"Optimizer steps; None: {STEPS}, or as many as --minutes allow.")
    minutes: float | None = setting(
        None,
        "Instead of steps: as many as take so long, validation and samples included; suspended time does not count.",
    )
    batch_size: int = setting(16, "Sequences in one optimizer step.")
    micro_batch_size: int | None = setting(None, "Sequences computed at once; None: the whole batch.")
    stride: int | None = setting(None, "Tokens between the starts of two windows; None: the context.")

    optimizer: str = setting("muon", "muon (matrices by Muon, the rest by AdamW) or adamw.")
    learning_rate: float = setting(8e-3, "Its peak, after the warm-up.")
    warmup_steps: int = setting(20, "Steps over which the learning rate rises; at most a fifth of the run.")
    schedule: str = setting("linear", "How the learning rate falls: linear, cosine or constant.")
    min_lr_ratio: float = setting(0.0, "Share of the peak that is left at the end.")
    weight_decay: float = setting(0.1, "Pull of matrices and embeddings towards zero.")
    beta1: float = setting(0.9, "AdamW's memory of the gradient.")
    beta2: float = setting(0.95, "AdamW's memory of its square.")
    max_grad_norm: float = setting(1.0, "Longest gradient allowed; 0 for no limit.")

    precision: str = setting(
        "auto", "fp32, bf16 (matrix products only), or auto: bf16 where this processor is quick at it."
    )
    threads: int | None = setting(
        None, "Threads for the matrix products; None: $OMP_NUM_THREADS, or the cores granted."
    )
    seed: int = setting(0, "Of the weights, the order of the data, and dropout.")

    eval_every: int | None = setting(None, "Steps between validations; None: a fifth of the run.")
    sample_every: int | None = setting(None, "Steps between samples; 0 for none; None: with each validation.")
    sample_prompts: tuple[str, ...] = setting(("The", "Return"), "What the samples begin with.")
    sample_tokens: int = setting(40, "Length of a sample, in tokens.")
    checkpoint_every: int | None = setting(None, "Steps between checkpoints; None: a fifth of the run.")
    keep_checkpoints: int = setting(2, "How many of the last checkpoints to keep, beside the best.")
    tensorboard: bool = setting(False, "Also write TensorBoard event files (extra `tensorboard`).")

    @property
    def accumulation(self) -> int:
        """Forward and backward passes in one optimizer step."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)

    def rules(self) -> Iterator[Rule]:
        """What each value has to be."""
        yield from super().rules()
        for name in ("warmup_steps", "sample_tokens", "keep_checkpoints"):
            yield name, getattr(self, name) >= 1, "at least 1"
        for name in ("batch_size", "micro_batch_size", "steps", "threads", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            yield name, value is None or value >= 1, "at least 1"
        for name in ("weight_decay", "max_grad_norm"):
            yield name, getattr(self, name) >= 0, "at least 0"
        for name in ("beta1", "beta2"):
            yield name, 0 <= getattr(self, name) < 1, "at least 0 and below 1"
        yield "sample_every", self.sample_every is None or self.sample_every >= 0, "at least 0"
        yield "minutes", self.minutes is None or self.minutes > 0, "above 0"
        yield "learning_rate", self.learning_rate is None or self.learning_rate > 0, "above 0"
        yield "schedule", self.schedule in schedule.SHAPES, f"one of {', '.join(schedule.SHAPES)}"
        yield "min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "from 0 to 1"
        yield "optimizer", self.optimizer in ("adamw", "muon"), "adamw or muon"
        yield "precision", self.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16"
        yield "seed", 0 <= self.seed < 2**63, "from 0 to 2^63 - 1"

    def check_together(self) -> None:
        """Raise ConfigError where values that are fine alone contradict each other."""
        super().check_together()
        if self.steps is not None and self.minutes is not None:
            raise ConfigError("Both steps and minutes are set; they contradict each other.", "Give one of them.")
        if self.batch_size is not None and self.batch_size % (self.micro_batch_size or self.batch_size):
            raise ConfigError(
                f"A batch_size of {self.batch_size} cannot be cut into equal parts of micro_batch_size "
                f"{self.micro_batch_size}.",
                "Choose a micro_batch_size that divides the batch_size.",
            )


@dataclass(frozen=True)
class TrainConfig(LoopSettings, ModelSettings, DataSettings):
    """The settings of a run from scratch. A value of None means: decided from the others, as its text says."""


METHODS = ("full", "lora", "norms", "norms+head", "head", "bias")
"""What may be trained of a model that is there, by name; beside them `last:N`, its last N blocks."""

TASKS = ("text", "sft", "dpo", "classify")

LEARNING_RATES = {
    "full": 1e-4,
    "last": 2e-4,
    "lora": 1e-3,
    "head": 5e-4,
    "norms": 2e-3,
    "norms+head": 5e-4,
    "bias": 2e-3,
}
"""Where a method begins to do well: the fewer numbers it may change, the further each has to go."""


@dataclass(frozen=True)
class FinetuneConfig(LoopSettings, DataSettings):
    """The settings of a run that goes on from a model that is there."""

    data: tuple[str, ...] = setting(
        (),
        "What to tune on. text: files, folders, globs, -, python-docs, python-source; other tasks: .jsonl, .csv, ...",
        path=True,
    )
    validation_fraction: float = setting(0.1, "Share of the documents or examples held out for validation.")
    sample_prompts: tuple[str, ...] = setting(
        ("The", "Return"), "What the samples begin with; in conversations two held-out questions."
    )
    model: str = setting("gpt2", "The model to go on from: a run, a folder, or the name of a pulled model.", path=True)
    task: str = setting("text", "text, sft (conversations), dpo (DPO on pairs) or classify (texts with labels).")
    method: str = setting(
        "lora", f"What to train: {', '.join(METHODS)}, or last:N (the last N blocks and the final norm)."
    )
    train_params: tuple[str, ...] = setting(
        (), "Instead of a method: patterns of parameters' names, such as 'blocks.*norm*'."
    )
    untie_embeddings: bool = setting(
        False, "Give a tied head its own copy of the token embedding, so that training it leaves that alone."
    )
    rank: int = setting(8, "LoRA: width of the detour that each matrix gets.")
    alpha: float = setting(16.0, "LoRA: the detour is multiplied by alpha / rank.")
    lora_dropout: float = setting(0.0, "LoRA: probability of dropping an input of the detour while training.")
    target_modules: tuple[str, ...] = setting(("blocks.*",), "LoRA: patterns of the matrices that get a detour.")
    use_rslora: bool = setting(False, "LoRA: multiply by alpha / sqrt(rank) instead.")
    use_dora: bool = setting(False, "LoRA: learn the length of each matrix's rows apart from their direction (DoRA).")
    trainable_tokens: int = setting(
        0, "LoRA: how many rows of the token embedding learn too: those of the tokens that the data asks most of."
    )
    context_length: int | None = setting(None, "Tokens in a training row; None: the model's.")
    dropout: float = setting(0.0, "Probability of dropping an activation, in blocks that are trained or above.")
    cache_activations: bool = setting(
        True, "Compute frozen lower blocks once and keep what they say in the run's folder."
    )
    overlong: str = setting("error", "Examples longer than a row: error, truncate (their end) or skip.")
    pack: bool | None = setting(
        None,
        "sft: several short conversations in a row, which do not see each other; None: on where that leaves "
        f"at least {STEPS_AN_EPOCH * USUAL_BATCH} rows.",
    )
    dpo_beta: float = setting(0.1, "dpo: how dearly DPO pays for going away from the model it began with.")

    epochs: float = setting(3.0, "How often to go through the data, where neither steps nor minutes are given.")
    steps: int | None = setting(None, "Optimizer steps; None: as many as --epochs or --minutes take.")
    batch_size: int | None = setting(  # type: ignore[assignment]
        None,
        f"Sequences in one optimizer step; None: {USUAL_BATCH}, or fewer where --epochs decides and an epoch would "
        f"have fewer than {STEPS_AN_EPOCH} steps.",
    )
    optimizer: str = setting("adamw", "adamw or muon (matrices by Muon, the rest by AdamW).")
    learning_rate: float | None = setting(None, "Its peak, after the warm-up; None: as suits the method.")  # type: ignore[assignment]
    weight_decay: float = setting(0.01, "Pull of matrices and embeddings towards zero.")
    beta2: float = setting(0.999, "AdamW's memory of its square.")

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate as given, or as suits the method."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATES["full" if self.train_params else self.method.partition(":")[0]]

    def rules(self) -> Iterator[Rule]:
        """What each value has to be."""
        yield from super().rules()
        method, _, blocks = self.method.partition(":")
        known = self.method in METHODS or (method == "last" and blocks.isdecimal() and int(blocks) >= 1)
        yield "method", known, f"one of {', '.join(METHODS)}, or last:N with N at least 1"
        yield "task", self.task in TASKS, f"one of {', '.join(TASKS)}"
        yield "rank", self.rank >= 1, "at least 1"
        yield "alpha", self.alpha > 0, "above 0"
        yield "trainable_tokens", self.trainable_tokens >= 0, "at least 0"
        yield "epochs", self.epochs > 0, "above 0"
        yield "dpo_beta", self.dpo_beta > 0, "above 0"
        yield "context_length", self.context_length is None or self.context_length >= 1, "at least 1"
        for name in ("dropout", "lora_dropout"):
            yield name, 0 <= getattr(self, name) < 1, "at least 0 and below 1"
        yield "overlong", self.overlong in ("error", "truncate", "skip"), "error, truncate or skip"
        yield "target_modules", bool(self.target_modules), "at least one pattern"

    def check_together(self) -> None:
        """Raise ConfigError where values that are fine alone contradict each other."""
        super().check_together()
        if not self.data:
            raise ConfigError("No data to tune on was named.", "Name it: --data FILE.")
        if self.untie_embeddings and self.method == "lora" and not self.train_params:
            raise ConfigError(
                "With the method lora no head learns, so there is nothing to gain from untie_embeddings.",
                "Leave --untie-embeddings out, or choose norms+head or head.",
            )
        if self.trainable_tokens and (self.method != "lora" or self.train_params):
            chosen = f"the method is {self.method}" if not self.train_params else "patterns say what learns"
            raise ConfigError(
                f"The setting trainable_tokens is {self.trainable_tokens}, and {chosen}; rows are LoRA's.",
                "Leave --trainable-tokens out, or choose --method lora.",
            )
        for name, unset in (("text_field", TEXT_FIELD), ("json_as_text", False)):
            if self.task != "text" and getattr(self, name) != unset:
                raise ConfigError(
                    f"The setting {name} is for running text, but the task is {self.task}.",
                    f"Leave --{name.replace('_', '-')} out.",
                )
        if self.stride is not None and self.task != "text":
            raise ConfigError(
                f"The setting stride is {self.stride}, but the task {self.task} has examples, not windows of text.",
                "Leave --stride out.",
            )


def merge_finetune(file: Path | None, flags: dict[str, Any]) -> FinetuneConfig:
    """The settings of a tuning run: default, overruled by the file, overruled by flags.

    Raises:
        ConfigError: as `merge_settings`, or when both a method and patterns are given.
    """
    if "method" in flags and "train_params" in flags:
        raise ConfigError("Both --method and --train-params say what to train.", "Give one of them.")
    return merge_settings(FinetuneConfig, file, flags, "finetune")


def merge(file: Path | None, flags: dict[str, Any]) -> TrainConfig:
    """The settings of a run from scratch: default, overruled by the file, overruled by flags.

    Raises:
        ConfigError: as `merge_settings`, or for a model without meaning.
    """
    config = merge_settings(TrainConfig, file, flags, "train")
    shape = config.model_config(config.vocab_size)  # refuses a shape without meaning before any text is read
    check_stride(config.stride, shape.context_length)
    return config


def check_stride(stride: int | None, context_length: int) -> None:
    """Raise ConfigError when windows of that context cannot begin so far apart."""
    if stride is not None and not 1 <= stride <= context_length:
        raise ConfigError(
            f"The setting stride is {stride}; it must be from 1 to the context, {context_length}.",
            "Leave it out: the windows then lie side by side.",
        )


def settings_of(values: dict[str, Any]) -> TrainConfig | FinetuneConfig:
    """The settings of a run from what it wrote down: from scratch, or of a model that was there.

    Raises:
        ConfigError: for a setting that this version does not know, or a value without meaning.
    """
    kind = FinetuneConfig if "method" in values else TrainConfig
    require_known(kind, values, "The settings hold")
    return kind(**values)


def require_known(kind: type, values: dict[str, Any], told: str) -> None:
    """Raise ConfigError if some of the values are no fields of a dataclass."""
    if unknown := sorted(values.keys() - {field.name for field in dataclasses.fields(kind)}):
        raise ConfigError(
            f"{told} {', '.join(unknown)}, which this version of Handloom does not know.",
            "Use the version of Handloom that wrote them.",
        )
