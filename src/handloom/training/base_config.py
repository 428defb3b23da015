"""The settings that runs from scratch and finetuning share: data, model, loop. Knows no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from handloom.data.separator import LIMITS, is_separator
from handloom.data.text_io import TEXT_FIELD
from handloom.errors import ConfigError
from handloom.model.config import GPTConfig, preset
from handloom.settings import Rule, Settings, setting
from handloom.tokenizer.base import END_OF_TEXT
from handloom.training.schedule import SCHEDULES

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


def batch_size_for(rows: int, steps: int = MIN_STEPS_PER_EPOCH) -> int:
    """The default batch, or the largest smaller power of two with which an epoch of so many rows has so many steps."""
    size = DEFAULT_BATCH
    while size > 1 and rows < steps * size:
        size //= 2
    return size


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which text, how it is read, and what of it is held out."""

    data: tuple[str, ...] = essential(
        ("python-docs",),
        "Text: files, folders, globs, - for stdin, or the built-in python-docs and python-source.",
        path=True,
    )
    validation_fraction: float = in_data(0.1, "Fraction of the documents held out for validation.", above=0, below=1)
    text_field: str = in_data(TEXT_FIELD, "Field of a record (.jsonl, .json, .csv, ...) that holds its text.")
    json_as_text: bool = in_data(False, "Read JSON as plain text, with its braces and field names.")
    encoding_errors: str = in_data("strict", "Bytes that are not UTF-8.", choices=("strict", "replace"))
    document_separator: str = in_data(END_OF_TEXT, 'Line between two documents of a text file; "" for none.')
    split: str = in_data(
        "auto",
        "Hold out whole documents, or the tail of each; auto: by the number of documents.",
        choices=("auto", "documents", "tail"),
    )

    def rules(self) -> Iterator[Rule]:
        """What a value has to be, beyond the limits of its field."""
        yield from super().rules()
        yield "document_separator", is_separator(self.document_separator), LIMITS


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

    def rules(self) -> Iterator[Rule]:
        """What a value has to be, beyond the limits of its field."""
        yield from super().rules()
        yield "vocab_size", self.vocab_size >= 257, "at least 257: every byte and the end of text"

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
    optimizer: str = in_loop("muon", "AdamW, or Muon for the matrices inside the blocks.", choices=("muon", "adamw"))
    warmup_steps: int = in_loop(20, "Warm-up steps of the learning rate; at most a fifth of the run.", at_least=1)
    schedule: str = in_loop("linear", "Learning rate schedule.", choices=SCHEDULES)
    min_lr_ratio: float = in_loop(0.0, "Final learning rate as a fraction of the peak.", at_least=0, at_most=1)
    weight_decay: float = in_loop(0.1, "Weight decay of matrices and embeddings.", at_least=0)
    beta1: float = in_loop(0.9, "AdamW: decay of the first moment.", at_least=0, below=1)
    beta2: float = in_loop(0.95, "AdamW: decay of the second moment.", at_least=0, below=1)
    max_grad_norm: float = in_loop(1.0, "Maximum gradient norm; 0 for no clipping.", at_least=0)
    stride: int | None = in_data(None, "Tokens between the starts of two windows; None: the context length.")
    seed: int = in_loop(0, "Seed of the weights, the data order and dropout.", at_least=0, at_most=2**63 - 1)

    precision: str = in_precision(
        "auto",
        "bf16: of matrix products only; auto: bf16 where the processor is fast at it.",
        choices=("auto", "fp32", "bf16"),
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
