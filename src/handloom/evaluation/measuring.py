"""Everything that a comparison measures of one model, but for the clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np

from handloom.errors import HandloomError
from handloom.evaluation.bits_per_byte import TextScore, score_text
from handloom.evaluation.calibration import calibrate
from handloom.evaluation.comparison_config import ComparisonConfig
from handloom.evaluation.diversity import diversity
from handloom.evaluation.memorization import Copied, Piece, search
from handloom.evaluation.provenance import ModelEntry, facts
from handloom.evaluation.report import Memorization, ModelResult, OverlapStats
from handloom.evaluation.sample_documents import Selection
from handloom.evaluation.samples import Sample, generate_samples
from handloom.evaluation.spans import spans
from handloom.evaluation.training_text import TrainingText, training_files
from handloom.inference.language_model import LanguageModel

SAMPLES, SAMPLE = 2, 500
"""Held-out documents of which the beginning is shown, and how many characters of each."""


class Measuring:
    """One model, open.

    Args:
        subject: the model.
        lm: the same, opened.
        question: what is asked of it.
        held_out: text that it is measured on.
        on_step: told what is done next.
    """

    def __init__(
        self,
        subject: ModelEntry,
        lm: LanguageModel,
        question: ComparisonConfig,
        held_out: Selection,
        on_step: Callable[[str], None],
    ) -> None:
        self.subject, self.lm, self.question = subject, lm, question
        self.held_out, self.on_step = held_out, on_step

    def score_text(self, text: Selection, what: str) -> TextScore:
        """Let it read a text."""
        self._step(f"reading {what}")
        return score_text(self.lm, [text for _, text in text.documents])

    def all(self, letter: str, general: Selection | None, line: Sequence[ModelEntry]) -> ModelResult:
        """Every number.

        Args:
            letter: of its tokenizer.
            general: text to see what was forgotten.
            line: the models that it was tuned from, nearest first.
        """
        lm, config = self.lm, self.lm.config
        self._step("writing")
        written = generate_samples(lm, self.question.prompts, self.question.request, self.question.n)
        reading = self.score_text(self.held_out, "held-out text")
        self._step("calibration")
        end = [lm.tokenizer.eos_token_id]
        ids = lm.tokenizer.encode_batch(text for _, text in self.held_out.documents)
        calibration = calibrate(lm.model, [np.array(end + each) for each in ids], context_length=config.context_length)
        self._step("searching its training text")
        memorization, why_not, written = self._memorization(written, line)
        general_reading = None
        if general is not None:
            same = general == self.held_out
            general_reading = reading if same else self.score_text(general, "general text")
        parameters = list(lm.model.parameters())
        return ModelResult(
            name=self.subject.name,
            facts=facts(self.subject),
            tokenizer=letter,
            vocabulary=lm.tokenizer.vocab_size,
            context_length=config.context_length,
            parameters=sum(p.numel() for p in parameters),
            weight_bytes=sum(p.numel() * p.element_size() for p in parameters),
            cache_bytes=2 * config.layers * config.context_length * config.embed_dim * lm.model.dtype.itemsize,
            held_out=reading,
            general=general_reading,
            calibration=calibration,
            diversity=diversity([each.text for each in written]),
            memorization=memorization,
            no_memorization=why_not,
            written=tuple(written),
            samples=tuple(
                tuple(span for span in spans(lm.tokenizer, some, nats.tolist()) if span.start < SAMPLE)
                for some, nats in zip(ids[:SAMPLES], reading.nats[:SAMPLES], strict=True)
            ),
        )

    def _memorization(
        self, written: Sequence[Sample], line: Sequence[ModelEntry]
    ) -> tuple[Memorization | None, str, list[Sample]]:
        """What was copied, or why that is not known; and the texts with what was copied of each."""
        texts = [each.text for each in written]
        beside = _pieces_like(texts, self.held_out)
        try:
            searched, training = self._training(line)
            found = search([*texts, *beside], training)
        except HandloomError as error:
            if self.question.training:
                raise
            return None, error.problem, list(written)
        own, other = found[: len(texts)], found[len(texts) :]
        marked = [dataclasses.replace(each, copied=c) for each, c in zip(written, own, strict=True)]
        return Memorization(searched, _share(own), _share(other)), "", marked

    def _training(self, line: Sequence[ModelEntry]) -> tuple[str, Iterator[Piece]]:
        """The text to search, and what it is: what the model learned from, and the models before it."""
        if self.question.training:
            sources = list(self.question.training)
            return ", ".join(sources), training_files(sources)
        learned = [TrainingText(self.subject.training, self.lm.tokenizer)]
        searched = [learned[0].named]
        for above in line:
            try:
                learned.append(TrainingText(above.training, above.load_tokenizer()))
                searched.append(f"{learned[-1].named} (of {above.name})")
            except HandloomError:
                searched.append(f"not what {above.name} learned from, which is not at hand")
        return "; ".join(searched), chain.from_iterable(each.pieces() for each in learned)

    def _step(self, what: str) -> None:
        self.on_step(f"{self.subject.name}: {what}")


def _pieces_like(texts: Sequence[str], held_out: Selection) -> list[str]:
    """As many pieces of held-out text as there are texts, if there are so many, each of their mean length."""
    length = max(1, round(sum(map(len, texts)) / len(texts)))
    pieces = [
        text[at : at + length]
        for _, text in held_out.documents
        for at in range(0, max(1, len(text) - length + 1), length)
    ]
    return pieces[:: max(1, len(pieces) // len(texts))][: len(texts)]


def _share(found: Sequence[Copied]) -> OverlapStats:
    longest = max((each.longest for each in found if each.longest), key=lambda one: one.characters, default=None)
    lengths = [each.longest.characters if each.longest else 0 for each in found]
    return OverlapStats(
        sum(each.grams for each in found),
        sum(len(each.found) for each in found),
        longest,
        sum(lengths) / max(1, len(lengths)),
    )
