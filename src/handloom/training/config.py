"""Every setting of a training run, with its default and its meaning, stated once.

Flags, `--help`, TOML files and the documentation are made from this dataclass. Knows no torch.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from handloom.errors import ConfigError, did_you_mean
from handloom.model.config import GPTConfig, preset
from handloom.training import schedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run. A value of None means: decided from the others, as its text says."""

    data: tuple[str, ...] = _setting(
        ("python-docs",),
        "What to learn from: files, folders, globs, - for stdin, or the built-in python-docs and python-source.",
    )
    text_field: str = _setting("text", "Field of a .jsonl record that holds its text.")
    encoding_errors: str = _setting("strict", "Bytes that are not UTF-8: strict (an error) or replace.")
    validation_fraction: float = _setting(0.1, "Share of the documents held out for validation.")
    split: str = _setting("auto", "How to hold out: documents, tail (the end of each document), or auto.")
    tokenizer: str = _setting(
        "learn", "learn (from the training text), gpt2, or a folder with vocab.json and merges.txt."
    )
    vocab_size: int = _setting(4096, "Size of the vocabulary when the tokenizer is learned.")

    preset: str = _setting("nano", "Model size to start from; see `handloom model list`.")
    layers: int | None = _setting(None, "Transformer blocks; None: as the preset.")
    heads: int | None = _setting(None, "Attention heads; None: as the preset.")
    width: int | None = _setting(None, "Channels of the residual stream; None: as the preset.")
    context: int | None = _setting(None, "Tokens the model can look at; None: as the preset.")
    dropout: float = _setting(0.0, "Probability of dropping an activation while training.")

    steps: int | None = _setting(None, "Optimizer steps; None: 1000, or as many as --minutes allow.")
    minutes: float | None = _setting(
        None, "Instead of steps: train this long, validation and samples included."
    )
    batch_size: int = _setting(16, "Sequences in one optimizer step.")
    micro_batch_size: int | None = _setting(None, "Sequences computed at once; None: the whole batch.")
    stride: int | None = _setting(None, "Tokens between the starts of two windows; None: the context.")

    optimizer: str = _setting("muon", "muon (matrices by Muon, the rest by AdamW) or adamw.")
    learning_rate: float = _setting(8e-3, "Its peak, after the warm-up.")
    warm_up_steps: int = _setting(20, "Steps over which the learning rate rises; at most a fifth of the run.")
    schedule: str = _setting("linear", "How the learning rate falls: linear, cosine or constant.")
    final_learning_rate: float = _setting(0.0, "Share of the peak that is left at the end.")
    weight_decay: float = _setting(0.1, "Pull of matrices and embeddings towards zero.")
    beta1: float = _setting(0.9, "AdamW's memory of the gradient.")
    beta2: float = _setting(0.95, "AdamW's memory of its square.")
    gradient_clip: float = _setting(1.0, "Longest gradient allowed; 0 for no limit.")

    precision: str = _setting(
        "auto", "fp32, bf16 (matrix products only), or auto: bf16 where this processor is quick at it."
    )
    threads: int | None = _setting(None, "Threads for the matrix products; None: the cores granted.")
    seed: int = _setting(0, "Of the weights, the order of the data, and dropout.")

    evaluate_every: int | None = _setting(None, "Steps between validations; None: a fifth of the run.")
    sample_every: int | None = _setting(
        None, "Steps between samples; 0 for none; None: with each validation."
    )
    sample_prompts: tuple[str, ...] = _setting(("The", "Return"), "What the samples begin with.")
    sample_tokens: int = _setting(40, "Length of a sample, in tokens.")
    checkpoint_every: int | None = _setting(None, "Steps between checkpoints; None: a fifth of the run.")
    keep_checkpoints: int = _setting(2, "How many of the last checkpoints to keep, beside the best.")
    tensorboard: bool = _setting(False, "Also write TensorBoard event files (extra `tensorboard`).")

    def __post_init__(self) -> None:
        for name in ("data", "sample_prompts"):
            value = getattr(self, name)
            if isinstance(value, str | list):
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        _check_types(self)
        _check_values(self)

    @property
    def accumulation(self) -> int:
        """Forward and backward passes in one optimizer step."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)

    def model_config(self, vocab_size: int) -> GPTConfig:
        """The model to build, for a tokenizer of that many ids."""
        named = {name: getattr(self, name) for name in ("layers", "heads", "width", "context")}
        chosen = {name: value for name, value in named.items() if value is not None}
        return dataclasses.replace(preset(self.preset), vocab_size=vocab_size, dropout=self.dropout, **chosen)

    def to_toml(self) -> str:
        """The settings as TOML; those that are None are left out."""
        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
            if value is not None
        }
        return tomli_w.dumps(values)


def merge(file: Path | None, flags: dict[str, Any]) -> TrainConfig:
    """The settings of a run: default, overruled by the file, overruled by flags.

    Args:
        file: a TOML file of settings, or None.
        flags: those given on the command line, by field name.

    Raises:
        ConfigError: for a file that is missing or no TOML, a key that does not exist (the nearest
            that does is named), or a value that has no meaning.
    """
    values = read_toml(file) if file is not None else {}
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{file} has a setting {key!r}, which does not exist.",
                did_you_mean(key, known) or "`handloom train --help` lists all settings.",
            )
    for one, other in (("steps", "minutes"), ("minutes", "steps")):
        if one in flags and other not in flags:
            values.pop(other, None)  # a flag overrules the file's choice between the two
    config = TrainConfig(**{**values, **flags})
    shape = config.model_config(config.vocab_size)  # refuses a shape without meaning before any text is read
    if config.stride is not None and not 1 <= config.stride <= shape.context:
        raise ConfigError(
            f"The setting stride is {config.stride}; it must be from 1 to the context, {shape.context}.",
            "Leave it out: the windows then lie side by side.",
        )
    return config


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: when it is missing or no TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"The settings file {file} cannot be read: {error.strerror}.", "Check its path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} is not TOML: {error}.", "Write settings as `name = value`, one a line."
        ) from None


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "tuple": ((tuple,), "a list of texts"),
}


def _check_types(config: TrainConfig) -> None:
    for field in dataclasses.fields(config):
        value, annotation = getattr(config, field.name), str(field.type)
        if value is None and "None" in annotation:
            continue
        types, words = next(kind for name, kind in _KINDS.items() if annotation.startswith(name))
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if isinstance(value, tuple):
            fits = fits and all(isinstance(item, str) for item in value)
        texts = value if isinstance(value, tuple) else (value,)
        if fits and any(isinstance(text, str) and not _is_text(text) for text in texts):
            raise ConfigError(
                f"The setting {field.name} is {value!r}, which is no text: it holds half of a character.",
                "Write it in UTF-8.",
            )
        if fits and isinstance(value, float) and not math.isfinite(value):
            fits, words = False, "a number with an end"
        if not fits:
            raise ConfigError(
                f"The setting {field.name} is {value!r}; it must be {words}.",
                f"It means: {field.metadata['help'].split('; None: ')[0].removesuffix('.')}.",
            )


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _check_values(config: TrainConfig) -> None:
    rules = (
        ("batch_size", config.batch_size >= 1, "at least 1"),
        ("micro_batch_size", config.micro_batch_size is None or config.micro_batch_size >= 1, "at least 1"),
        ("vocab_size", config.vocab_size >= 257, "at least 257: every byte and the end of text"),
        ("steps", config.steps is None or config.steps >= 1, "at least 1"),
        ("minutes", config.minutes is None or config.minutes > 0, "above 0"),
        ("learning_rate", config.learning_rate > 0, "above 0"),
        ("warm_up_steps", config.warm_up_steps >= 1, "at least 1"),
        ("schedule", config.schedule in schedule.SHAPES, f"one of {', '.join(schedule.SHAPES)}"),
        ("final_learning_rate", 0 <= config.final_learning_rate <= 1, "from 0 to 1"),
        ("weight_decay", config.weight_decay >= 0, "at least 0"),
        ("beta1", 0 <= config.beta1 < 1, "at least 0 and below 1"),
        ("beta2", 0 <= config.beta2 < 1, "at least 0 and below 1"),
        ("gradient_clip", config.gradient_clip >= 0, "at least 0"),
        ("optimizer", config.optimizer in ("adamw", "muon"), "adamw or muon"),
        ("precision", config.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16"),
        ("encoding_errors", config.encoding_errors in ("strict", "replace"), "strict or replace"),
        ("split", config.split in ("auto", "documents", "tail"), "auto, documents or tail"),
        ("validation_fraction", 0 < config.validation_fraction < 1, "above 0 and below 1"),
        ("threads", config.threads is None or config.threads >= 1, "at least 1"),
        ("seed", 0 <= config.seed < 2**63, "from 0 to 2^63 - 1"),
        ("evaluate_every", config.evaluate_every is None or config.evaluate_every >= 1, "at least 1"),
        ("sample_every", config.sample_every is None or config.sample_every >= 0, "at least 0"),
        ("sample_tokens", config.sample_tokens >= 1, "at least 1"),
        ("checkpoint_every", config.checkpoint_every is None or config.checkpoint_every >= 1, "at least 1"),
        ("keep_checkpoints", config.keep_checkpoints >= 1, "at least 1"),
    )
    for name, holds, limit in rules:
        if not holds:
            raise ConfigError(
                f"The setting {name} is {getattr(config, name)!r}; it must be {limit}.",
                f"Set --{name.replace('_', '-')} accordingly.",
            )
    if config.steps is not None and config.minutes is not None:
        raise ConfigError("Both steps and minutes are set; they contradict each other.", "Give one of them.")
    if config.batch_size % (config.micro_batch_size or config.batch_size):
        raise ConfigError(
            f"A batch_size of {config.batch_size} cannot be cut into equal parts of micro_batch_size "
            f"{config.micro_batch_size}.",
            "Choose a micro_batch_size that divides the batch_size.",
        )
