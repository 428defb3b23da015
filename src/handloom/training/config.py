"""The settings of a run, each with its default and its help, stated once; see `handloom.settings`. Knows no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from handloom.data.chunking import LIMITS, is_separator
from handloom.data.text_io import TEXT_FIELD
from handloom.errors import ConfigError
from handloom.model.config import GPTConfig, preset
from handloom.settings import Settings, setting
from handloom.tokenizer.base import END_OF_TEXT

essential, in_data, in_model, in_lora, in_loop, in_precision, in_output = (
    partial(setting, group=group)
    for group in ("Essentials", "Data", "Model", "LoRA", "Optimization", "Precision and threads", "Output")
)

STEPS = 1000
"""Steps of a run from scratch."""
DEFAULT_BATCH, MIN_STEPS_PER_EPOCH = 8, 16
"""Of finetuning: rows in a step where there is enough data, and the steps in an epoch that make it enough."""
FEW_STEPS = 30
"""A run with fewer steps gets a warning."""


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which text, how it is read, and what of it is held out."""

    data: tuple[str, ...] = essential(
        ("python-docs",),
        "Text: files, folders, globs, - for stdin, or the built-in python-docs and python-source.",
        path=True,
    )
    validation_fraction: float = in_data(0.1, "Fraction of documents or examples held out.", above=0, below=1)
    text_field: str = in_data(TEXT_FIELD, "Field of a record (.jsonl, .json, .csv, ...) that holds its text.")
    json_as_text: bool = in_data(False, "Read JSON as plain text, with its braces and field names.")
    encoding_errors: str = in_data("strict", "Bytes that are not UTF-8.", choices=("strict", "replace"))
    document_separator: str = in_data(END_OF_TEXT, 'Line between two documents of a text file; "" for none.')
    split: str = in_data(
        "auto",
        "Hold out whole documents, or the tail of each; auto: by the number of documents.",
        choices=("auto", "documents", "tail"),
    )

    def check_together(self) -> None:
        """Raise ConfigError for a value that no limit of its field describes."""
        super().check_together()
        self.require("document_separator", is_separator(self.document_separator), LIMITS)


@dataclass(frozen=True)
class ModelSettings(Settings):
    """The vocabulary and the model of a run from scratch."""

    preset: str = essential("nano", "Model size to start from; see `handloom model presets`.")
    layers: int | None = in_model(None, "Transformer blocks; None: as the preset.")
    heads: int | None = in_model(None, "Attention heads; None: as the preset.")
    embed_dim: int | None = in_model(None, "Channels of the residual stream; None: as the preset.")
    context_length: int | None = in_model(None, "Context length in tokens; None: as the preset.")
    dropout: float = in_model(0.0, "Dropout probability.")
    tokenizer: str = in_model(
        "train", "train (on the training text), gpt2, or a folder with vocab.json and merges.txt.", path=True
    )
    vocab_size: int = in_model(4096, "Vocabulary size of a tokenizer that is trained.")

    def check_together(self) -> None:
        """Raise ConfigError for a value that no limit of its field describes."""
        super().check_together()
        self.require("vocab_size", self.vocab_size >= 257, "at least 257: every byte and the end of text")

    def model_config(self, vocab_size: int) -> GPTConfig:
        """The shape of the model, for a tokenizer with that many ids."""
        shape = {name: getattr(self, name) for name in ("layers", "heads", "embed_dim", "context_length")}
        given = {name: value for name, value in shape.items() if value is not None}
        return dataclasses.replace(preset(self.preset), vocab_size=vocab_size, dropout=self.dropout, **given)


@dataclass(frozen=True)
class LoopSettings(Settings):
    """How long and how to train, whatever the task."""

    exclusive: ClassVar[tuple[tuple[str, str], ...]] = (("steps", "minutes"),)

    steps: int | None = essential(None, f"Optimizer steps; None: {STEPS}, or as the minutes allow.", at_least=1)
    minutes: float | None = essential(
        None, "Train for this long instead, with validation and samples; suspended time does not count.", above=0
    )
    batch_size: int = in_loop(16, "Sequences in one optimizer step.", at_least=1)
    micro_batch_size: int | None = in_loop(None, "Sequences computed at once; None: the whole batch.", at_least=1)
    learning_rate: float = in_loop(8e-3, "Peak learning rate, after the warm-up.", above=0)
    embedding_lr_ratio: float = in_loop(1.0, "Learning rate of embeddings (and of a tied head), relative.", above=0)
    optimizer: str = in_loop("muon", "AdamW, or Muon for the matrices inside the blocks.", choices=("muon", "adamw"))
    warmup_steps: int = in_loop(20, "Warm-up steps of the learning rate; at most a fifth of the run.", at_least=1)
    schedule: str = in_loop("linear", "Learning rate schedule.", choices=("linear", "cosine", "constant"))
    min_lr_ratio: float = in_loop(
        0.0, "Final learning rate as a fraction of the peak; no effect with schedule constant.", at_least=0, at_most=1
    )
    weight_decay: float = in_loop(0.1, "Weight decay of matrices and embeddings.", at_least=0)
    beta1: float = in_loop(0.9, "AdamW: decay of the first moment.", at_least=0, below=1)
    beta2: float = in_loop(0.95, "AdamW: decay of the second moment.", at_least=0, below=1)
    max_grad_norm: float = in_loop(1.0, "Maximum gradient norm; 0 for no clipping.", at_least=0)
    stride: int | None = in_data(None, "Tokens between the starts of two windows; None: the context length.")
    seed: int = in_loop(0, "Seed of the weights, the data order and dropout.", at_least=0, at_most=2**63 - 1)

    precision: str = in_precision(
        "auto", "bf16: of matrix products; auto: where the processor is fast at it.", choices=("auto", "fp32", "bf16")
    )
    gradient_checkpointing: str = in_precision(
        "auto", "Recompute activations in the backward pass; auto: if memory is short.", choices=("auto", "on", "off")
    )
    threads: int | None = in_precision(
        None, "Threads of matrix products; None: $OMP_NUM_THREADS, or the available cores.", at_least=1
    )

    eval_every: int | None = in_output(None, "Steps between validations; None: a fifth of the run.", at_least=1)
    sample_every: int | None = in_output(
        None, "Steps between samples, 0 for none; None: with each validation.", at_least=0
    )
    sample_prompts: tuple[str, ...] = in_output(("The", "Return"), "Prompts of the samples.")
    sample_tokens: int = in_output(40, "Tokens in a sample.", at_least=1)
    checkpoint_every: int | None = in_output(None, "Steps between checkpoints; None: a fifth of the run.", at_least=1)
    keep_checkpoints: int = in_output(2, "Number of latest checkpoints to keep, in addition to the best.", at_least=1)
    tensorboard: bool = in_output(False, "Also write TensorBoard event files (extra `tensorboard`).")

    @property
    def accumulation(self) -> int:
        """Micro-batches in one optimizer step."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)

    def require_stride(self, context_length: int) -> None:
        """Raise ConfigError for a stride that windows of that context length cannot have."""
        holds = self.stride is None or 1 <= self.stride <= context_length
        limit = f"from 1 to the context length, {context_length}"
        self.require("stride", holds, limit, "Leave `stride` out: the windows then do not overlap.")

    def check_together(self) -> None:
        """Raise ConfigError where values that are allowed alone contradict each other."""
        super().check_together()
        if self.batch_size is not None and self.batch_size % (self.micro_batch_size or self.batch_size):
            raise ConfigError(
                f"A batch_size of {self.batch_size} cannot be divided into micro-batches of micro_batch_size "
                f"{self.micro_batch_size}.",
                "Choose a `micro_batch_size` that divides the `batch_size`.",
                setting="micro_batch_size",
            )


@dataclass(frozen=True)
class TrainConfig(LoopSettings, ModelSettings, DataSettings):
    """The settings of a run from scratch. None means: decided from the others, as the help says."""

    command: ClassVar[str] = "train"

    def check_together(self) -> None:
        """Raise ConfigError for a shape that no model has, before any text is read."""
        super().check_together()
        self.require_stride(self.model_config(self.vocab_size).context_length)


METHODS = ("full", "lora", "norms", "norms+head", "head", "bias")
"""What of a pretrained model may be trained, by name; in addition `last:N`, its last N blocks."""

PEAK_RATES = {"full": 1e-4, "last": 2e-4, "lora": 1e-3, "head": 5e-4, "norms": 2e-3, "norms+head": 5e-4, "bias": 2e-3}
"""A good peak learning rate for each method: the fewer parameters are trained, the further each has to move."""


@dataclass(frozen=True)
class TaskSettings(Settings):
    """What finetuning is about; the first of its flags."""

    model: str = essential("gpt2", "Model to finetune: a run, a folder, or the name of a pulled model.", path=True)
    data: tuple[str, ...] = ()  # stated by FinetuneConfig; here for its place
    task: str = essential(
        "text",
        "Train on text, conversations (sft), preference pairs (dpo) or labeled texts (classify).",
        choices=("text", "sft", "dpo", "classify"),
    )
    method: str = essential(
        "lora", f"What to train: {', '.join(METHODS)}, or last:N (the last N blocks and the final norm)."
    )


@dataclass(frozen=True)
class FinetuneConfig(LoopSettings, DataSettings, TaskSettings):
    """The settings of a run that goes on from a pretrained model."""

    command: ClassVar[str] = "finetune"

    data: tuple[str, ...] = essential(
        (), "Training data. text: as handloom train reads it; other tasks: .jsonl, .csv, ...", path=True
    )
    train_params: tuple[str, ...] = in_model(
        (), "Instead of a method: patterns of parameter names, as 'blocks.*norm*'."
    )
    untie_embeddings: bool = in_model(False, "Give a tied head its own copy of the token embedding before training.")
    rank: int = in_lora(8, "LoRA rank.", at_least=1)
    alpha: float = in_lora(16.0, "LoRA: the update is scaled by alpha / rank.", above=0)
    lora_dropout: float = in_lora(0.0, "LoRA: dropout probability of the adapters' inputs.", at_least=0, below=1)
    target_modules: tuple[str, ...] = in_lora(("blocks.*",), "LoRA: patterns of the linear layers that get an adapter.")
    use_rslora: bool = in_lora(False, "LoRA: scale by alpha / sqrt(rank) instead (rsLoRA).")
    use_dora: bool = in_lora(False, "LoRA: train the magnitude of each output separately (DoRA).")
    trainable_tokens: int = in_lora(
        0,
        "LoRA: also train this many token embeddings: those with the largest gradient on the first 16 batches.",
        at_least=0,
    )
    dropout: float = in_model(0.0, "Dropout probability, in trained blocks and those above them.", at_least=0, below=1)
    context_length: int | None = in_data(
        None, "Tokens in a training row; None: the model's context length.", at_least=1
    )
    overlong: str = in_data("error", "Examples longer than a row.", choices=("error", "truncate", "skip"))
    pack: bool | None = in_data(
        None,
        "sft: several short conversations in a row, which do not see each other; None: on where that leaves "
        f"at least {MIN_STEPS_PER_EPOCH * DEFAULT_BATCH} rows.",
    )
    dpo_beta: float = in_loop(0.1, "DPO beta: strength of the KL penalty to the reference model.", above=0)
    epochs: float = essential(3.0, "Passes over the data, where neither steps nor minutes are given.", above=0)
    steps: int | None = essential(None, "Optimizer steps; None: as many as the epochs or minutes take.", at_least=1)
    batch_size: int | None = in_loop(  # type: ignore[assignment]
        None,
        f"Sequences in one optimizer step; None: {DEFAULT_BATCH}, or fewer where the epochs decide and an epoch would "
        f"have fewer than {MIN_STEPS_PER_EPOCH} steps.",
        at_least=1,
    )
    optimizer: str = in_loop("adamw", "AdamW, or Muon for the matrices inside the blocks.", choices=("adamw", "muon"))
    learning_rate: float | None = in_loop(  # type: ignore[assignment]
        None, "Peak learning rate, after the warm-up; None: as suits the method.", above=0
    )
    weight_decay: float = in_loop(0.01, "Weight decay of matrices and embeddings.", at_least=0)
    beta2: float = in_loop(0.999, "AdamW: decay of the second moment.", at_least=0, below=1)
    sample_prompts: tuple[str, ...] = in_output(
        ("The", "Return"), "Prompts of the samples; of conversations two held-out questions."
    )
    cache_activations: bool = in_loop(True, "Cache the outputs of frozen lower layers on disk, in the run's folder.")

    @classmethod
    def merged(cls, file: Path | None, flags: Mapping[str, Any]) -> FinetuneConfig:
        """As for all settings; not both a method and patterns."""
        if "method" in flags and "train_params" in flags:
            raise ConfigError("Both `method` and `train_params` name what is trained.", "Give one of them.")
        return super().merged(file, flags)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate as given, or as suits the method."""
        if self.learning_rate is not None:
            return self.learning_rate
        return PEAK_RATES["full" if self.train_params else self.method.partition(":")[0]]

    @property
    def with_lora(self) -> bool:
        """Whether adapters are trained, next to a frozen model."""
        return self.method == "lora" and not self.train_params

    def check_together(self) -> None:
        """Raise ConfigError where values that are allowed alone contradict each other."""
        super().check_together()
        method, _, blocks = self.method.partition(":")
        known = self.method in METHODS or (method == "last" and blocks.isdecimal() and int(blocks) >= 1)
        self.require("method", known, f"one of {', '.join(METHODS)}, or last:N with N at least 1")
        self.require("target_modules", bool(self.target_modules), "at least one pattern")
        if not self.data:
            raise ConfigError("No data to finetune on was named.", "Name the files in `data`.", setting="data")
        if self.untie_embeddings and self.with_lora:
            problem = "The method lora does not train the head, so untie_embeddings would have no effect."
            remedy = "Leave `untie_embeddings` out, or choose `method=norms+head` or `method=head`."
            raise ConfigError(problem, remedy, setting="untie_embeddings")
        if self.trainable_tokens and not self.with_lora:
            what = "train_params names what is trained" if self.train_params else f"the method is {self.method}"
            problem = f"The setting trainable_tokens is {self.trainable_tokens}, and {what}; it belongs to LoRA."
            remedy = "Leave `trainable_tokens` out, or choose `method=lora`."
            raise ConfigError(problem, remedy, setting="trainable_tokens")
        for name, unset in (("text_field", TEXT_FIELD), ("json_as_text", False), ("stride", None)):
            if self.task != "text" and getattr(self, name) != unset:
                problem = f"The setting {name} is for running text, but the task is {self.task}."
                raise ConfigError(problem, f"Leave `{name}` out.", setting=name)


def settings_of(values: dict[str, Any]) -> TrainConfig | FinetuneConfig:
    """The settings that a run wrote down: from scratch or finetuning. Raises ConfigError for unknown ones."""
    kind = FinetuneConfig if "method" in values else TrainConfig
    require_fields(kind, values, "The settings hold")
    return kind(**values)


def require_fields(kind: type, values: dict[str, Any], what: str) -> None:
    """Raise ConfigError if some of the values are not fields of a dataclass."""
    if unknown := sorted(values.keys() - {field.name for field in dataclasses.fields(kind)}):
        raise ConfigError(
            f"{what} {', '.join(unknown)}, which this version of Handloom does not support.",
            "Use the version of Handloom that wrote them.",
        )
