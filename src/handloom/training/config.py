"""The settings of a run, each with its default and its help, stated once; see `handloom.settings`. Knows no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom.data.text_io import TEXT_FIELD
from handloom.errors import ConfigError
from handloom.settings import Rule, Settings, merge_settings
from handloom.training.base_config import (
    DEFAULT_BATCH,
    MIN_STEPS_PER_EPOCH,
    DataSettings,
    LoopSettings,
    ModelSettings,
    essential,
    in_data,
    in_loop,
    in_lora,
    in_model,
    in_output,
)


@dataclass(frozen=True)
class TrainConfig(LoopSettings, ModelSettings, DataSettings):
    """The settings of a run from scratch. None means: decided from the others, as the help says."""


METHODS = ("full", "lora", "norms", "norms+head", "head", "bias")
"""What of a pretrained model may be trained, by name; in addition `last:N`, its last N blocks."""

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
"""A good peak for each method: the fewer parameters are trained, the further each has to move."""


@dataclass(frozen=True)
class TaskSettings(Settings):
    """What finetuning is about; the first of its flags."""

    model: str = essential("gpt2", "Model to finetune: a run, a folder, or the name of a pulled model.", path=True)
    data: tuple[str, ...] = ()  # stated by FinetuneConfig; here for its place
    task: str = essential(
        "text", "Train on text, conversations (sft), preference pairs (dpo) or labeled texts (classify).", choices=TASKS
    )
    method: str = essential(
        "lora", f"What to train: {', '.join(METHODS)}, or last:N (the last N blocks and the final norm)."
    )


@dataclass(frozen=True)
class FinetuneConfig(LoopSettings, DataSettings, TaskSettings):
    """The settings of a run that goes on from a pretrained model."""

    data: tuple[str, ...] = essential(
        (), "Training data. text: as handloom train reads it; other tasks: .jsonl, .csv, ...", path=True
    )
    train_params: tuple[str, ...] = in_model(
        (), "Instead of a method: patterns of parameter names, as 'blocks.*norm*'."
    )
    validation_fraction: float = in_data(
        0.1, "Fraction of documents or examples held out for validation.", above=0, below=1
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

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate as given, or as suits the method."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATES["full" if self.train_params else self.method.partition(":")[0]]

    @property
    def with_lora(self) -> bool:
        """Whether adapters are trained, next to a frozen model."""
        return self.method == "lora" and not self.train_params

    def rules(self) -> Iterator[Rule]:
        """What a value has to be, beyond the limits of its field."""
        yield from super().rules()
        method, _, blocks = self.method.partition(":")
        known = self.method in METHODS or (method == "last" and blocks.isdecimal() and int(blocks) >= 1)
        yield "method", known, f"one of {', '.join(METHODS)}, or last:N with N at least 1"
        yield "target_modules", bool(self.target_modules), "at least one pattern"

    def check_together(self) -> None:
        """Raise ConfigError where values that are allowed alone contradict each other."""
        super().check_together()
        if not self.data:
            raise ConfigError("No data to finetune on was named.", "Name the files in `data`.", setting="data")
        if self.untie_embeddings and self.with_lora:
            raise ConfigError(
                "The method lora does not train the head, so untie_embeddings would have no effect.",
                "Leave `untie_embeddings` out, or choose `method=norms+head` or `method=head`.",
                setting="untie_embeddings",
            )
        if self.trainable_tokens and not self.with_lora:
            what = "train_params names what is trained" if self.train_params else f"the method is {self.method}"
            raise ConfigError(
                f"The setting trainable_tokens is {self.trainable_tokens}, and {what}; it belongs to LoRA.",
                "Leave `trainable_tokens` out, or choose `method=lora`.",
                setting="trainable_tokens",
            )
        for name, unset in (("text_field", TEXT_FIELD), ("json_as_text", False), ("stride", None)):
            if self.task != "text" and getattr(self, name) != unset:
                raise ConfigError(
                    f"The setting {name} is for running text, but the task is {self.task}.",
                    f"Leave `{name}` out.",
                    setting=name,
                )


def merge_finetune(file: Path | None, flags: dict[str, Any]) -> FinetuneConfig:
    """The settings of finetuning, as `merge_settings` has them; not both a method and patterns."""
    if "method" in flags and "train_params" in flags:
        raise ConfigError("Both `method` and `train_params` name what is trained.", "Give one of them.")
    return merge_settings(FinetuneConfig, file, flags, "finetune")


def merge(file: Path | None, flags: dict[str, Any]) -> TrainConfig:
    """The settings of a run from scratch, as `merge_settings` has them; of a shape that a model can have."""
    config = merge_settings(TrainConfig, file, flags, "train")
    shape = config.model_config(config.vocab_size)  # refuses a wrong shape before any text is read
    check_stride(config.stride, shape.context_length)
    return config


def check_stride(stride: int | None, context_length: int) -> None:
    """Raise ConfigError for a stride that windows of that context length cannot have."""
    if stride is not None and not 1 <= stride <= context_length:
        raise ConfigError(
            f"The setting stride is {stride}; it must be from 1 to the context length, {context_length}.",
            "Leave `stride` out: the windows then do not overlap.",
            setting="stride",
        )


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
