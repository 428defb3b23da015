"""Every setting of a run, with its default and its meaning, stated once.

Flags, `--help`, TOML files and the documentation are made from these dataclasses. Knows no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom.data.separator import LIMITS, is_separator
from handloom.data.text_io import TEXT_FIELD
from handloom.errors import ConfigError
from handloom.model.config import GPTConfig, preset
from handloom.settings import Rule, Settings, merge_settings, setting
from handloom.tokenizer.base import END_OF_TEXT
from handloom.training import schedule
from handloom.training.sizes import STEPS, STEPS_AN_EPOCH, USUAL_BATCH

ESSENTIALS, DATA, MODEL, LORA, OPTIMIZATION, MACHINE, OUTPUT = (
    "Essentials", "Data", "Model", "LoRA", "Optimization", "Precision and threads", "Output",
)  # fmt: skip
"""Headings of `--help`."""

METHODS = ("full", "lora", "norms", "norms+head", "head", "bias")
"""Which parameters of a pretrained model are trained, by name; `last:N` trains its last N blocks."""

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
"""The default of each method: the fewer parameters it trains, the larger."""


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which text, how it is read, and the validation split."""

    data: tuple[str, ...] = setting(
        ("python-docs",),
        "Training text: files, folders, globs, - for stdin, or the built-in python-docs and python-source.",
        group=ESSENTIALS,
        path=True,
    )
    text_field: str = setting(
        TEXT_FIELD, "Field of a record (.jsonl, .json, .csv, ...) that holds its text.", group=DATA
    )
    json_as_text: bool = setting(False, "Read JSON as plain text, with its braces and field names.", group=DATA)
    encoding_errors: str = setting(
        "strict", "Bytes that are not UTF-8: an error, or replace them.", choices=("strict", "replace"), group=DATA
    )
    document_separator: str = setting(
        END_OF_TEXT, 'Line between two documents of a text file; "" for none: a file is one document.', group=DATA
    )
    validation_fraction: float = setting(
        0.1, "Fraction of the documents in the validation split.", above=0, below=1, group=DATA
    )
    split: str = setting(
        "auto",
        "Validation split: whole documents, the tail of each document, or whichever the data allows.",
        choices=("auto", "documents", "tail"),
        group=DATA,
    )

    def rules(self) -> Iterator[Rule]:
        """What each value has to be."""
        yield from super().rules()
        yield "document_separator", is_separator(self.document_separator), LIMITS


@dataclass(frozen=True)
class ModelSettings(Settings):
    """What is built before it is trained: a vocabulary and a model."""

    preset: str = setting("nano", "Model size to start from; see `handloom model presets`.", group=ESSENTIALS)
    layers: int | None = setting(None, "Transformer blocks; None: as the preset.", group=MODEL)
    heads: int | None = setting(None, "Attention heads; None: as the preset.", group=MODEL)
    embed_dim: int | None = setting(None, "Channels of the residual stream; None: as the preset.", group=MODEL)
    context_length: int | None = setting(None, "Context length, in tokens; None: as the preset.", group=MODEL)
    dropout: float = setting(0.0, "Dropout probability during training.", group=MODEL)
    tokenizer: str = setting(
        "learn",
        "learn (from the training text), gpt2, or a folder with vocab.json and merges.txt.",
        group=MODEL,
        path=True,
    )
    vocab_size: int = setting(4096, "Vocabulary size of a tokenizer that is learned.", group=MODEL)

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

    exclusive = (("steps", "minutes"),)

    steps: int | None = setting(
        None, f"Optimizer steps; None: {STEPS}, or as many as `minutes` allow.", at_least=1, group=ESSENTIALS
    )
    minutes: float | None = setting(
        None,
        "Time budget instead of steps, with validation and samples; suspended time does not count.",
        above=0,
        group=ESSENTIALS,
    )

    batch_size: int = setting(16, "Sequences in one optimizer step.", at_least=1, group=OPTIMIZATION)
    micro_batch_size: int | None = setting(
        None, "Sequences computed at once; None: the whole batch.", at_least=1, group=OPTIMIZATION
    )
    stride: int | None = setting(
        None, "Tokens between the starts of two windows; None: the context length.", group=DATA
    )
    optimizer: str = setting(
        "muon", "AdamW, or Muon for matrices and AdamW for the rest.", choices=("muon", "adamw"), group=OPTIMIZATION
    )
    learning_rate: float = setting(8e-3, "Peak learning rate, after the warmup.", above=0, group=OPTIMIZATION)
    warmup_steps: int = setting(
        20, "Steps of linear warmup; at most a fifth of the run.", at_least=1, group=OPTIMIZATION
    )
    schedule: str = setting("linear", "How the learning rate decays.", choices=schedule.SHAPES, group=OPTIMIZATION)
    min_lr_ratio: float = setting(
        0.0, "Final learning rate as a fraction of the peak.", at_least=0, at_most=1, group=OPTIMIZATION
    )
    weight_decay: float = setting(
        0.1, "Decoupled weight decay of matrices and embeddings.", at_least=0, group=OPTIMIZATION
    )
    beta1: float = setting(0.9, "AdamW's decay of the first moment.", at_least=0, below=1, group=OPTIMIZATION)
    beta2: float = setting(0.95, "AdamW's decay of the second moment.", at_least=0, below=1, group=OPTIMIZATION)
    max_grad_norm: float = setting(1.0, "Maximum gradient norm; 0 for no clipping.", at_least=0, group=OPTIMIZATION)
    seed: int = setting(
        0, "Seed of the weights, the order of the data, and dropout.", at_least=0, at_most=2**63 - 1, group=OPTIMIZATION
    )

    precision: str = setting(
        "auto",
        "bf16 applies to matrix products only; auto uses it where the processor has native bfloat16.",
        choices=("auto", "fp32", "bf16"),
        group=MACHINE,
    )
    threads: int | None = setting(
        None, "Threads for matrix products; None: $OMP_NUM_THREADS, or the available cores.", at_least=1, group=MACHINE
    )

    eval_every: int | None = setting(
        None, "Steps between validations; None: a fifth of the run.", at_least=1, group=OUTPUT
    )
    sample_every: int | None = setting(
        None, "Steps between samples; 0 for none; None: with each validation.", at_least=0, group=OUTPUT
    )
    sample_prompts: tuple[str, ...] = setting(("The", "Return"), "Prompts of the samples.", group=OUTPUT)
    sample_tokens: int = setting(40, "Length of a sample, in tokens.", at_least=1, group=OUTPUT)
    checkpoint_every: int | None = setting(
        None, "Steps between checkpoints; None: a fifth of the run.", at_least=1, group=OUTPUT
    )
    keep_checkpoints: int = setting(2, "Latest checkpoints to keep, in addition to the best.", at_least=1, group=OUTPUT)
    tensorboard: bool = setting(
        False, "Also write TensorBoard event files (needs the extra tensorboard).", group=OUTPUT
    )

    @property
    def accumulation(self) -> int:
        """Forward and backward passes in one optimizer step."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)

    def check_together(self) -> None:
        """Raise ConfigError where values that are fine alone contradict each other."""
        super().check_together()
        if self.batch_size is not None and self.batch_size % (self.micro_batch_size or self.batch_size):
            raise ConfigError(
                f"A batch_size of {self.batch_size} cannot be cut into equal parts of micro_batch_size "
                f"{self.micro_batch_size}.",
                "Choose a `micro_batch_size` that divides the `batch_size`.",
                setting="micro_batch_size",
            )


@dataclass(frozen=True)
class TrainConfig(LoopSettings, ModelSettings, DataSettings):
    """The settings of a run from scratch. A value of None means: decided from the others, as its text says."""


@dataclass(frozen=True)
class FinetuneConfig(LoopSettings, DataSettings):
    """The settings of a run that starts from a pretrained model."""

    data: tuple[str, ...] = setting(
        (),
        "Training data. text: files, folders, globs, -, python-docs, python-source; other tasks: .jsonl, .csv, ...",
        group=ESSENTIALS,
        path=True,
    )
    validation_fraction: float = setting(
        0.1, "Fraction of the documents or examples in the validation split.", above=0, below=1, group=DATA
    )
    sample_prompts: tuple[str, ...] = setting(
        ("The", "Return"), "Prompts of the samples; in conversations two held-out questions.", group=OUTPUT
    )
    model: str = setting(
        "gpt2", "The model to start from: a run, a folder, or the name of a pulled model.", group=ESSENTIALS, path=True
    )
    task: str = setting(
        "text",
        "text, supervised fine-tuning on conversations, DPO on preference pairs, or classification.",
        choices=TASKS,
        group=ESSENTIALS,
    )
    method: str = setting(
        "lora",
        f"What to train: {', '.join(METHODS)}, or last:N (the last N blocks and the final norm).",
        group=ESSENTIALS,
    )
    train_params: tuple[str, ...] = setting(
        (), "Instead of a method: patterns of parameter names, such as 'blocks.*norm*'.", group=MODEL
    )
    untie_embeddings: bool = setting(
        False, "Give a tied head its own copy of the token embedding, so that it trains alone.", group=MODEL
    )
    rank: int = setting(8, "LoRA rank.", at_least=1, group=LORA)
    alpha: float = setting(16.0, "LoRA scale: the update is multiplied by alpha / rank.", above=0, group=LORA)
    lora_dropout: float = setting(
        0.0, "Dropout probability of the adapter's inputs during training.", at_least=0, below=1, group=LORA
    )
    target_modules: tuple[str, ...] = setting(
        ("blocks.*",), "Patterns of the linear layers that get an adapter.", group=LORA
    )
    use_rslora: bool = setting(False, "Multiply by alpha / sqrt(rank) instead (rank-stabilized LoRA).", group=LORA)
    use_dora: bool = setting(
        False, "Train the magnitude of each matrix's rows separately from their direction (DoRA).", group=LORA
    )
    trainable_tokens: int = setting(
        0,
        "Embedding rows to train too: those with the largest gradient on the first 16 batches.",
        at_least=0,
        group=LORA,
    )
    context_length: int | None = setting(
        None, "Tokens in a training row; None: the model's context length.", at_least=1, group=DATA
    )
    dropout: float = setting(
        0.0, "Dropout probability of the trained blocks and those above.", at_least=0, below=1, group=MODEL
    )
    cache_activations: bool = setting(
        True, "Cache the outputs of frozen lower layers in the run's folder.", group=OPTIMIZATION
    )
    overlong: str = setting(
        "error",
        "Examples longer than a row: an error, truncate their end, or skip them.",
        choices=("error", "truncate", "skip"),
        group=DATA,
    )
    pack: bool | None = setting(
        None,
        "sft: put several short conversations into a row, masked from each other; None: on where that leaves "
        f"at least {STEPS_AN_EPOCH * USUAL_BATCH} rows.",
        group=DATA,
    )
    dpo_beta: float = setting(
        0.1, "DPO beta: strength of the KL penalty to the reference model.", above=0, group=OPTIMIZATION
    )

    epochs: float = setting(
        3.0, "Passes over the data, where neither steps nor minutes are set.", above=0, group=ESSENTIALS
    )
    steps: int | None = setting(
        None, "Optimizer steps; None: as many as `epochs` or `minutes` take.", at_least=1, group=ESSENTIALS
    )
    batch_size: int | None = setting(  # type: ignore[assignment]
        None,
        f"Sequences in one optimizer step; None: {USUAL_BATCH}, or fewer where `epochs` decides and an epoch would "
        f"have fewer than {STEPS_AN_EPOCH} steps.",
        at_least=1,
        group=OPTIMIZATION,
    )
    optimizer: str = setting(
        "adamw", "AdamW, or Muon for matrices and AdamW for the rest.", choices=("adamw", "muon"), group=OPTIMIZATION
    )
    learning_rate: float | None = setting(  # type: ignore[assignment]
        None, "Peak learning rate, after the warmup; None: as suits the method.", above=0, group=OPTIMIZATION
    )
    weight_decay: float = setting(
        0.01, "Decoupled weight decay of matrices and embeddings.", at_least=0, group=OPTIMIZATION
    )
    beta2: float = setting(0.999, "AdamW's decay of the second moment.", at_least=0, below=1, group=OPTIMIZATION)

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
        yield "target_modules", bool(self.target_modules), "at least one pattern"

    def check_together(self) -> None:
        """Raise ConfigError where values that are fine alone contradict each other."""
        super().check_together()
        if not self.data:
            raise ConfigError("No data to tune on was named.", "Name it: `data=FILE`.", setting="data")
        if self.untie_embeddings and self.method == "lora" and not self.train_params:
            raise ConfigError(
                "With the method lora no head learns, so there is nothing to gain from untie_embeddings.",
                "Leave `untie_embeddings` out, or choose `method=norms+head` or `method=head`.",
            )
        if self.trainable_tokens and (self.method != "lora" or self.train_params):
            chosen = f"the method is {self.method}" if not self.train_params else "patterns say what learns"
            raise ConfigError(
                f"The setting trainable_tokens is {self.trainable_tokens}, and {chosen}; they are LoRA's.",
                "Leave `trainable_tokens` out, or choose `method=lora`.",
            )
        for name, unset in (("text_field", TEXT_FIELD), ("json_as_text", False)):
            if self.task != "text" and getattr(self, name) != unset:
                raise ConfigError(
                    f"The setting {name} is for running text, but the task is {self.task}.",
                    f"Leave `{name}` out.",
                    setting=name,
                )
        if self.stride is not None and self.task != "text":
            raise ConfigError(
                f"The setting stride is {self.stride}, but the task {self.task} has examples, not windows of text.",
                "Leave `stride` out.",
            )


def merge_finetune(file: Path | None, flags: dict[str, Any]) -> FinetuneConfig:
    """The settings of a tuning run: default, overruled by the file, overruled by flags.

    Raises:
        ConfigError: as `merge_settings`, or when both a method and patterns are given.
    """
    if "method" in flags and "train_params" in flags:
        raise ConfigError("Both `method` and `train_params` select what to train.", "Give one of them.")
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
