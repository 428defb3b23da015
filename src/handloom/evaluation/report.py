"""The result of a comparison as plain values: the same for JSON, the page and the terminal. Knows no model.

What may differ between two runs of the same comparison (seconds, speeds, dates, the memory of the process) is kept
apart in `Times`; all else is the same to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from handloom.evaluation.calibration import Calibration
from handloom.evaluation.provenance import KINDS, Provenance
from handloom.evaluation.samples import Sample, Span, Speed
from handloom.evaluation.scoring import Z_95, Estimate, TextScore
from handloom.evaluation.text_metrics import Diversity, OverlapStats
from handloom.evaluation.texts import TextSample

FORMAT = "handloom-comparison"
VERSION = 2
_SUSPICIOUS = 0.5  # held-out text shares a few set phrases with the training text, not half of everything


@dataclass(frozen=True)
class Memorization:
    """Copies of the training text in a model's samples, and in held-out text."""

    searched: str
    """Which training text."""
    texts: OverlapStats
    held_out: OverlapStats
    """Of as many pieces of held-out text, about as long as the samples."""


@dataclass(frozen=True)
class ModelResult:
    """One model, with a letter for its tokenizer: the same for models with the same one."""

    name: str
    provenance: Provenance
    tokenizer: str
    vocab_size: int
    context_length: int
    precision: str
    """In which it was computed: fp32, or another one that was asked for."""
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
    samples: tuple[Sample, ...]
    excerpts: tuple[tuple[Span, ...], ...] = field(repr=False)
    """The beginnings of some held-out documents, with this model's NLL."""


@dataclass(frozen=True)
class Forgetting:
    """A tuned model on general text, against the model that it was tuned from."""

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
        if error is None or abs(self.difference.value) <= Z_95 * error:
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
    """Of the documents whose beginnings are shown."""

    @classmethod
    def of(cls, text: TextSample, shown: int = 0) -> Source:
        """The description of a text; `shown` documents are named."""
        names = tuple(name for name, _ in text.documents[:shown])
        return cls(text.source, len(text.documents), text.bytes, text.whole, names=names)


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
    forgetting: tuple[Forgetting, ...]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    threads: int
    times: Times = field(compare=False)

    @property
    def one_tokenizer(self) -> bool:
        """Whether all models have the same tokenizer, so that perplexities can be compared."""
        return len({model.tokenizer for model in self.models}) == 1

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the fields and properties of all parts. Only what is under `times` differs from run to run."""
        return {"format": FORMAT, "version": VERSION, **_as_json(self)}


def _as_json(value: Any) -> Any:
    """Dataclasses become objects of their fields (but those without repr) and properties; infinity becomes None."""
    if is_dataclass(value):
        names = [each.name for each in fields(value) if each.repr]
        names += [name for name, each in vars(type(value)).items() if isinstance(each, property)]
        return {name: _as_json(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(name): _as_json(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance_notes(models: Sequence[ModelResult], from_scratch: bool) -> list[str]:
    """Where the models are from; `from_scratch`: the base of each was pretrained here."""
    notes = []
    for kind in KINDS:
        if some := [f"{m.name} ({m.provenance.detail})" for m in models if m.provenance.kind == kind]:
            notes.append(f"{kind.capitalize()}: {', '.join(some)}.")
    if from_scratch:
        notes.append(
            "GPT-2's real weights are absent: every model here goes back to one that Handloom pretrained from nothing."
        )
    elif any(model.provenance.kind == "copied by hand" for model in models):
        notes.append("A folder that was copied by hand does not record whose weights it contains.")
    return notes


def warnings(models: Sequence[ModelResult]) -> list[str]:
    """What limits the numbers."""
    notes = []
    if len({model.tokenizer for model in models}) > 1:
        notes.append(
            "These models have different tokenizers, so their perplexities cannot be compared with each other; bits "
            "per byte can."
        )
    for model in models:
        share = model.memorization and model.memorization.held_out.share
        if share and share > _SUSPICIOUS:
            notes.append(
                f"{share:.0%} of the 8-grams of the held-out text stand in the training text of {model.name}: it is "
                "not held out from that model, whose numbers on it are too good."
            )
    return notes
