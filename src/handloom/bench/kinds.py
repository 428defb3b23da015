"""What can be measured, and the settings of each. Knows no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

from handloom.errors import ConfigError, did_you_mean
from handloom.settings import Settings, setting

essential, in_rounds, in_precision = (
    partial(setting, group=group) for group in ("Essentials", "Options", "Precision and threads")
)
B = TypeVar("B", bound="BenchSettings")
WEIGHTS = ("fp32", "fp16", "bf16", "int8", "int4")
ARITHMETIC = ("fp32", "bf16")


@dataclass(frozen=True)
class BenchSettings(Settings):
    """What every kind has. `limit` is what the speed is compared with: read bandwidth, or matrix speed."""

    kind: ClassVar[str]
    limit: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = WEIGHTS

    model: str = essential(
        "gpt2", "A model on disk, or a preset (`handloom model presets`), which gets random weights.", path=True
    )
    precision: tuple[str, ...] = in_precision(
        (), f"What to measure next to fp32: {', '.join(WEIGHTS[1:])}; all that this machine has if not given."
    )
    threads: int | None = in_precision(
        None, "Threads of matrix products; None: $OMP_NUM_THREADS, or the available cores.", at_least=1
    )
    rounds: int = in_rounds(5, "Measured rounds of each precision, which take turns.", at_least=1)
    least_seconds: float = in_rounds(0.5, "A round repeats its work for at least so long.", at_least=0)

    def check_together(self) -> None:
        """Raise ConfigError for a precision that this kind does not have."""
        for name in self.precision:
            if name not in self.precisions:
                remedy = f"{did_you_mean(name, self.precisions)} There are: {', '.join(self.precisions)}.".strip()
                raise ConfigError(f"{self.kind} has no precision {name!r}.", remedy, setting="precision")

    def fitted(self: B, context_length: int) -> B:
        """The same work, made as short as a model with that context needs it."""
        return dataclasses.replace(self, **self.shorter(context_length))

    def shorter(self, context_length: int) -> dict[str, Any]:
        """The settings of `fitted` that change."""
        return {}


@dataclass(frozen=True)
class Decode(BenchSettings):
    """One text, greedy: tokens after the first."""

    kind, limit = "decode", "read bandwidth"

    prompt_tokens: int = in_rounds(32, "Tokens of the prompt.", at_least=1)
    new_tokens: int = in_rounds(128, "Tokens to generate.", at_least=2)

    def shorter(self, context_length: int) -> dict[str, Any]:
        """A prompt of at most a quarter of the context, and what there is room for after it."""
        if self.prompt_tokens + self.new_tokens <= context_length:
            return {}
        prompt = max(1, min(self.prompt_tokens, context_length // 4))
        return {"prompt_tokens": prompt, "new_tokens": max(2, min(self.new_tokens, context_length - prompt))}


@dataclass(frozen=True)
class Prefill(BenchSettings):
    """Reading a prompt, until the logits of its last position."""

    kind, limit = "prefill", "matrix speed"

    prompt_tokens: int = in_rounds(900, "Tokens of the prompt.", at_least=1)

    def shorter(self, context_length: int) -> dict[str, Any]:
        """A prompt that leaves room for a token."""
        return {"prompt_tokens": max(1, min(self.prompt_tokens, context_length - 1))}


@dataclass(frozen=True)
class Batch(Decode):
    """Several texts together, greedy: the tokens of all, prompts included in the time."""

    kind, limit = "batch", "matrix speed"

    streams: int = in_rounds(16, "Texts that are generated together.", at_least=1)


@dataclass(frozen=True)
class Train(BenchSettings):
    """Optimizer steps over all parameters."""

    kind, limit, precisions = "train", "matrix speed", ARITHMETIC

    batch_size: int = in_rounds(4, "Rows in a step.", at_least=1)
    context_length: int = in_rounds(256, "Tokens in a row.", at_least=1)
    optimizer: str = in_rounds("adamw", "AdamW, or Muon for the matrices inside blocks.", choices=("adamw", "muon"))

    def shorter(self, context_length: int) -> dict[str, Any]:
        """Rows of the context's length."""
        return {"context_length": min(self.context_length, context_length)}


@dataclass(frozen=True)
class LoRA(Train):
    """Optimizer steps over a LoRA adapter of attention's queries, keys and values."""

    kind = "lora"

    rank: int = in_rounds(16, "LoRA rank.", at_least=1)


@dataclass(frozen=True)
class Start(BenchSettings):
    """New processes, from their start to the first token."""

    kind = "start"


@dataclass(frozen=True)
class Tokenize(Settings):
    """The model's tokenizer: encoding and decoding."""

    kind: ClassVar[str] = "tokenize"

    model: str = essential("gpt2", "A model on disk, or gpt2 for GPT-2's own tokenizer.", path=True)
    text_bytes: int = in_rounds(2_000_000, "Text of the built-in corpus to encode, in bytes.", at_least=1)
    rounds: int = in_rounds(5, "Measured rounds of each way, which take turns.", at_least=1)


KINDS: dict[str, type[BenchSettings]] = {one.kind: one for one in (Decode, Prefill, Batch, Train, LoRA)}


@dataclass(frozen=True)
class Speedrun(Settings):
    """The time to a validation loss, against the plain recipe."""

    data: str = in_rounds("tinyshakespeare.txt", "Text; its first nine tenths are trained on.", path=True)
    target: float = in_rounds(1.886, "Validation loss to reach, in nats a character.", above=0)
    rounds: int = in_rounds(1, "Rounds, in which both recipes take turns; medians count.", at_least=1)
