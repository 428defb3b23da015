"""Comparison of models: every measure of each, on the same prompts, seeds and texts, one model in memory at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain

import numpy as np
import torch

from handloom import runtime
from handloom.errors import HandloomError, RequestError
from handloom.evaluation.calibration import calibrate
from handloom.evaluation.comparison_config import ComparisonConfig, settings_of
from handloom.evaluation.provenance import FindModel, ModelEntry, Provenance, base_models, collect
from handloom.evaluation.report import (
    Forgetting,
    Memorization,
    ModelResult,
    Report,
    Source,
    Times,
    provenance_notes,
    warnings,
)
from handloom.evaluation.samples import Sample, generate_samples, measure_speed, token_spans
from handloom.evaluation.scoring import TextScore, difference, score_text
from handloom.evaluation.text_metrics import OverlapStats, TrainingPiece, diversity, search
from handloom.evaluation.texts import (
    TextSample,
    TrainingText,
    corpus_documents,
    sample_documents,
    sample_files,
    training_pieces,
)
from handloom.inference.engine import require_room
from handloom.inference.language_model import LanguageModel
from handloom.model.summary import parameter_count

GENERAL = "python-docs"
"""The general text where a base model does not record its training text: about 2 MB of English."""
EXCERPTS, EXCERPT = 2, 500
"""Held-out documents whose beginnings are shown, and how many characters of each."""


def compare(
    names: Sequence[str], config: ComparisonConfig, find: FindModel, on_step: Callable[[str], None] = lambda step: None
) -> Report:
    """Measure at least two models; `find` opens a name, `on_step` is called with what is done next.

    Raises RequestError, naming the model, where a setting does not suit it; HandloomError for a model or a text that
    cannot be read.
    """
    began = time.perf_counter()
    entries = collect(names, find)
    for entry in entries:
        for ids in entry.load_tokenizer().encode_batch(config.prompts):
            try:
                require_room(len(ids), config.request, entry.context_length)
            except RequestError as error:
                raise RequestError(f"{entry.name}: {error.problem}", error.remedy, setting=error.setting) from None
    bases, notes = {}, []
    for entry in entries:
        bases[entry.name], missing = base_models(entry, entries, find)
        if missing:
            notes.append(f"What {entry.name} was tuned from cannot be compared with it: {missing}")
    held_out, general = _held_out(config, entries), _general(config, [line[0] for line in bases.values() if line])
    comparison = _Comparison(config, bases, held_out, general, on_step=on_step)
    letters: dict[str, str] = {}
    models, speeds = [], {}
    for entry in entries:
        on_step(f"{entry.name}: loading")
        lm = entry.open()
        letter = letters.setdefault(lm.tokenizer.fingerprint, chr(ord("A") + len(letters)))
        models.append(comparison.measure(entry, lm, letter))
        on_step(f"{entry.name}: speed")
        speeds[entry.name] = measure_speed(lm, config.prompts[0], config.request)
        del lm  # before the next is opened
    roots = [(bases[entry.name] or [entry])[-1] for entry in entries]
    from_scratch = all(root.training and root.base is None for root in roots)
    return Report(
        models=tuple(models),
        prompts=config.prompts,
        n=config.n,
        settings=settings_of(config.request),
        held_out=Source.of(held_out, EXCERPTS),
        general=Source.of(general) if general else None,
        forgetting=tuple(comparison.forgetting(entries, models)),
        notes=(*provenance_notes(models, from_scratch), *notes, *warnings(models)),
        versions=runtime.versions(),
        threads=torch.get_num_threads(),
        times=Times(
            date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            seconds=time.perf_counter() - began,
            peak_memory_bytes=runtime.peak_memory_bytes(),
            speeds=speeds,
        ),
    )


# Texts


def _held_out(config: ComparisonConfig, entries: Sequence[ModelEntry]) -> TextSample:
    if config.data:
        return sample_files(config.data, config.text_bytes)
    trained = next((entry for entry in entries if entry.training), None)
    if trained is None:
        problem = (
            "There is no held-out text: none of these models was trained here, where some would have been held out."
        )
        raise RequestError(problem, "Name a text with `data`.", setting="data")
    try:
        return _validation_text(trained, config.text_bytes)
    except HandloomError as error:
        problem = f"The validation text of {trained.name} cannot be read again: {error.problem}"
        raise RequestError(problem, "Name a held-out text with `data`.", setting="data") from None


def _general(config: ComparisonConfig, bases: Sequence[ModelEntry]) -> TextSample | None:
    """Text to measure forgetting on; None if no model was tuned and none was named."""
    if config.general or not bases:
        return sample_files(config.general, config.text_bytes) if config.general else None
    try:
        return _validation_text(bases[0], config.text_bytes)
    except HandloomError:
        return sample_files([GENERAL], config.text_bytes)


def _validation_text(entry: ModelEntry, limit: int) -> TextSample:
    text = TrainingText(entry.training, entry.load_tokenizer())
    return sample_documents(f"what {entry.name} held out of {text.name}", text.held_out(), limit)


# Measures


@dataclass(frozen=True)
class _Comparison:
    """What all models are measured on."""

    config: ComparisonConfig
    bases: Mapping[str, Sequence[ModelEntry]]
    """By name, the models that each was tuned from, nearest first."""
    held_out: TextSample
    general: TextSample | None
    on_step: Callable[[str], None]

    def measure(self, entry: ModelEntry, lm: LanguageModel, letter: str) -> ModelResult:
        """Every measure of one model but its speed; `letter` is that of its tokenizer."""

        def step(what: str) -> None:
            self.on_step(f"{entry.name}: {what}")

        step("samples")
        samples = generate_samples(lm, self.config.prompts, self.config.request, self.config.n)
        step("held-out text")
        score = score_text(lm, self.held_out.texts)
        step("calibration")
        end = [lm.tokenizer.eos_token_id]
        ids = lm.tokenizer.encode_batch(self.held_out.texts)
        texts = [np.array(end + each) for each in ids]
        calibration = calibrate(lm.model, texts, context_length=lm.config.context_length)
        step("copies of its training text")
        memorization, why_not, samples = self.memorization(entry, lm, samples)
        general_score: TextScore | None = None
        if self.general is not None:
            step("general text")
            general_score = score if self.general == self.held_out else score_text(lm, self.general.texts)
        shape = lm.config
        return ModelResult(
            name=entry.name,
            provenance=Provenance.of(entry),
            tokenizer=letter,
            vocab_size=lm.tokenizer.vocab_size,
            context_length=shape.context_length,
            precision=lm.precision,
            parameters=parameter_count(shape),
            weight_bytes=sum(tensor.nbytes for tensor in lm.model.state_dict().values()),
            cache_bytes=2 * shape.layers * shape.context_length * shape.embed_dim * lm.model.dtype.itemsize,
            held_out=score,
            general=general_score,
            calibration=calibration,
            diversity=diversity([sample.text for sample in samples]),
            memorization=memorization,
            no_memorization=why_not,
            samples=tuple(samples),
            excerpts=tuple(
                tuple(span for span in token_spans(lm.tokenizer, document, nll.tolist()) if span.start < EXCERPT)
                for document, nll in zip(ids[:EXCERPTS], score.nll[:EXCERPTS], strict=True)
            ),
        )

    def memorization(
        self, entry: ModelEntry, lm: LanguageModel, samples: list[Sample]
    ) -> tuple[Memorization | None, str, list[Sample]]:
        """Copies in the samples, or why they are unknown; and the samples with their own copies."""
        texts = [sample.text for sample in samples]
        try:
            searched, training = self.training(entry, lm)
            found = search([*texts, *self.held_out_like(texts)], training)
        except HandloomError as error:
            if self.config.training:
                raise
            return None, error.problem, samples
        own, other = found[: len(texts)], found[len(texts) :]
        marked = [dataclasses.replace(sample, copied=copied) for sample, copied in zip(samples, own, strict=True)]
        return Memorization(searched, OverlapStats.of(own), OverlapStats.of(other)), "", marked

    def training(self, entry: ModelEntry, lm: LanguageModel) -> tuple[str, Iterator[TrainingPiece]]:
        """The training text of a model and of the models that it was tuned from, and its name."""
        if sources := self.config.training:
            return ", ".join(sources), training_pieces(corpus_documents(sources))
        texts = [TrainingText(entry.training, lm.tokenizer)]
        names = [texts[0].name]
        for base in self.bases[entry.name]:
            try:
                texts.append(TrainingText(base.training, base.load_tokenizer()))
                names.append(f"{texts[-1].name} (of {base.name})")
            except HandloomError:
                names.append(f"not the training text of {base.name}, which is not available")
        return "; ".join(names), chain.from_iterable(text.pieces() for text in texts)

    def held_out_like(self, texts: Sequence[str]) -> list[str]:
        """As many pieces of held-out text as there are texts, if there are so many, each of their mean length."""
        size = max(1, round(sum(map(len, texts)) / len(texts)))
        pieces = [
            text[at : at + size] for text in self.held_out.texts for at in range(0, max(1, len(text) - size + 1), size)
        ]
        return pieces[:: max(1, len(pieces) // len(texts))][: len(texts)]

    def forgetting(self, entries: Sequence[ModelEntry], models: Sequence[ModelResult]) -> Iterator[Forgetting]:
        """For each tuned model, its score and its base's on general text; opens a base that is not compared."""
        pairs = zip(entries, models, strict=True)
        scores = {entry.folder: model.general for entry, model in pairs if model.general}
        if self.general is None:
            return
        for entry in entries:
            for base in self.bases[entry.name][:1]:
                if base.folder not in scores:
                    self.on_step(f"{base.name}: general text")
                    scores[base.folder] = score_text(base.open(), self.general.texts)
                before, after = scores[base.folder], scores[entry.folder]
                yield Forgetting(entry.name, base.name, before, after, difference=difference(after, before))
