"""What a comparison found, as plain values: the same for JSON, the page and the terminal.

What may differ between two runs of the same comparison, seconds, speeds, dates and the memory of the process, is
kept apart in `Times`; all else is the same to the last digit. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from handloom.evaluation.bits_per_byte import Estimate, TextScore
from handloom.evaluation.calibration import Calibration
from handloom.evaluation.diversity import Diversity
from handloom.evaluation.memorization import Overlap
from handloom.evaluation.provenance import Provenance
from handloom.evaluation.samples import Sample, Speed
from handloom.evaluation.spans import Span

FORMAT = "handloom-comparison"
VERSION = 1


@dataclass(frozen=True)
class OverlapStats:
    """Of all 8-grams of several texts those that stand in a training text, and the longest overlap of any."""

    grams: int
    copied: int
    longest: Overlap | None
    mean_longest: float
    """The longest overlap of a text in characters, the mean over texts."""

    @property
    def share(self) -> float | None:
        """Copied 8-grams over all; None where no text has 8 words."""
        return self.copied / self.grams if self.grams else None


@dataclass(frozen=True)
class Memorization:
    """What a model's texts have in common with what it learned from, and what text it never saw has."""

    searched: str
    """Which training text."""
    texts: OverlapStats
    held_out: OverlapStats
    """The same of as many pieces of held-out text, about as long as the model's own."""


@dataclass(frozen=True)
class ModelResult:
    """One model."""

    name: str
    facts: Provenance
    tokenizer: str
    """A letter: the same for models that cut text alike."""
    vocabulary: int
    context_length: int
    parameters: int
    weight_bytes: int
    cache_bytes: int
    """Keys and values of one text that fills the context."""
    held_out: TextScore
    general: TextScore | None
    calibration: Calibration
    diversity: Diversity
    memorization: Memorization | None
    no_memorization: str
    """Why it was not measured."""
    written: tuple[Sample, ...]
    samples: tuple[tuple[Span, ...], ...]
    """The beginnings of some held-out documents, with this model's surprise."""


@dataclass(frozen=True)
class Forgetting:
    """How a tuned model reads general text, against the model that it was tuned from."""

    model: str
    base: str
    before: TextScore
    after: TextScore
    difference: Estimate
    """Bits per byte, after less before: above 0 something was forgotten."""

    @property
    def verdict(self) -> str:
        """In a few words; clear is what lies beyond 1.96 standard errors."""
        error = self.difference.standard_error
        if error is None or abs(self.difference.value) <= 1.96 * error:
            return "no clear difference"
        return "forgot" if self.difference.value > 0 else "learned"


@dataclass(frozen=True)
class Source:
    """A text that was measured on."""

    source: str
    documents: int
    bytes: int
    whole: bool
    names: tuple[str, ...] = ()
    """Of the documents from which samples are shown."""


@dataclass(frozen=True)
class Times:
    """What another run would not repeat."""

    date: str
    seconds: float
    peak_memory_bytes: int
    """Of the process, all models and libraries included."""
    speeds: Mapping[str, Speed]


@dataclass(frozen=True)
class Report:
    """A whole comparison."""

    models: tuple[ModelResult, ...]
    prompts: tuple[str, ...]
    n: int
    settings: Mapping[str, Any]
    """Of the sampling."""
    held_out: Source
    general: Source | None
    forgot: tuple[Forgetting, ...]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    threads: int
    times: Times = field(compare=False)

    @property
    def one_tokenizer(self) -> bool:
        """Whether all models cut text alike, so that perplexities can be compared."""
        return len({model.tokenizer for model in self.models}) == 1

    def to_dict(self) -> dict[str, Any]:
        """JSON values. Only what is under `times` differs from run to run."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "models": [_model(model) for model in self.models],
            "prompts": list(self.prompts),
            "texts_per_prompt": self.n,
            "settings": dict(self.settings),
            "held_out": asdict(self.held_out),
            "general": self.general and asdict(self.general),
            "forgot": [
                {
                    "model": each.model,
                    "base": each.base,
                    "before": _reading(each.before),
                    "after": _reading(each.after),
                    "difference_bits_per_byte": asdict(each.difference),
                    "verdict": each.verdict,
                }
                for each in self.forgot
            ],
            "notes": list(self.notes),
            "versions": dict(self.versions),
            "threads": self.threads,
            "times": {**asdict(self.times), "speeds": {k: asdict(v) for k, v in self.times.speeds.items()}},
        }


def _model(model: ModelResult) -> dict[str, Any]:
    return {
        "name": model.name,
        "origin": {**asdict(model.facts), "trained_share": model.facts.trained_share},
        "tokenizer": model.tokenizer,
        "vocabulary": model.vocabulary,
        "context_length": model.context_length,
        "parameters": model.parameters,
        "weight_bytes": model.weight_bytes,
        "cache_bytes": model.cache_bytes,
        "held_out": _reading(model.held_out),
        "general": model.general and _reading(model.general),
        "calibration": asdict(model.calibration),
        "diversity": asdict(model.diversity),
        "memorization": model.memorization and _memorization(model.memorization),
        "no_memorization": model.no_memorization or None,
        "texts": [_written(each) for each in model.written],
    }


def _reading(reading: TextScore) -> dict[str, Any]:
    return {
        "bits_per_byte": asdict(reading.bits_per_byte),
        "nats_per_token": asdict(reading.nats_per_token),
        "perplexity": _finite(reading.perplexity),
        "perplexity_standard_error": _finite(reading.perplexity_error),
        "tokens": reading.tokens,
        "bytes": reading.bytes,
    }


def _memorization(found: Memorization) -> dict[str, Any]:
    return {
        "searched": found.searched,
        **{
            name: {**asdict(share), "share": share.share}
            for name, share in (("texts", found.texts), ("held_out", found.held_out))
        },
    }


def _written(one: Sample) -> dict[str, Any]:
    copied = one.copied
    return {
        "prompt": one.prompt,
        "text": one.text,
        "finish_reason": one.finish_reason,
        "tokens": one.tokens,
        "nats": one.nats,
        "spans": [[span.text, span.nats] for span in one.spans],
        "longest_overlap": copied and copied.longest and asdict(copied.longest),
        "grams": copied and copied.grams,
        "copied_grams": copied and len(copied.found),
    }


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity."""
    return value if value is not None and math.isfinite(value) else None
