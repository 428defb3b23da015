"""Several models, the same questions: every measure of a comparison, one model in memory at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import chain

import numpy as np
import torch

from handloom import runtime
from handloom.errors import HandloomError, RequestError
from handloom.evaluation.calibration import calibrate
from handloom.evaluation.diversity import diversity
from handloom.evaluation.learned import Learned, training_files
from handloom.evaluation.memorization import Copied, Piece, search
from handloom.evaluation.question import Question, settings_of
from handloom.evaluation.readings import Reading, difference, read
from handloom.evaluation.report import Forgot, Measured, Memorization, Report, Share, Source, Times
from handloom.evaluation.selection import Selection, select, select_files
from handloom.evaluation.shading import spans
from handloom.evaluation.statements import provenance, warnings
from handloom.evaluation.subjects import Find, Subject, ancestors, facts, gather
from handloom.evaluation.writing import Speed, Written, speed, write
from handloom.inference.engine import require_room
from handloom.inference.text import LanguageModel

GENERAL = "python-docs"
"""The general text where a base model does not say what it learned from: about 2 MB of English."""

SAMPLES, SAMPLE = 2, 500
"""Held-out documents of which the beginning is shown, and how many characters of each."""


def compare(
    names: Sequence[str], question: Question, find: Find, on_step: Callable[[str], None] = lambda step: None
) -> Report:
    """Measure models side by side.

    Args:
        names: of the models, at least two.
        question: what is asked of each.
        find: the model that a name stands for.
        on_step: told what is done next.

    Raises:
        RequestError: when the question does not suit the models; says which.
        HandloomError: for a model or a text that cannot be read.
    """
    began = time.perf_counter()
    subjects = gather(names, find)
    _require_room(subjects, question)
    notes: list[str] = []
    lines = {}
    for subject in subjects:
        line, missing = ancestors(subject, subjects, find)
        lines[subject.name] = line
        if missing:
            notes.append(f"What {subject.name} was tuned from cannot be compared with it: {missing}")
    held_out = _held_out(question, subjects)
    general = _general(question, [line[0] for line in lines.values() if line])
    letters: dict[str, str] = {}
    models, speeds, read_generally = [], {}, {}
    for subject in subjects:
        on_step(f"{subject.name}: opening")
        lm = subject.open()
        letter = letters.setdefault(lm.tokenizer.fingerprint, chr(ord("A") + len(letters)))
        measuring = _Measuring(subject, lm, question, held_out, on_step)
        reading = measuring.read(general, "general text") if general else None
        if reading:
            read_generally[subject.folder] = reading
        models.append(measuring.all(letter, reading, lines[subject.name]))
        on_step(f"{subject.name}: looking at the clock")
        speeds[subject.name] = measuring.speed()
    forgot = []
    for subject in subjects:
        if general and (line := lines[subject.name]):
            base = line[0]
            if base.folder not in read_generally:
                on_step(f"{base.name}: reading general text")
                read_generally[base.folder] = read(base.open(), [text for _, text in general.documents])
            before, after = read_generally[base.folder], read_generally[subject.folder]
            forgot.append(Forgot(subject.name, base.name, before, after, difference(after, before)))
    return Report(
        tuple(models),
        question.prompts,
        question.n,
        settings_of(question.request),
        _source(held_out, SAMPLES),
        _source(general) if general else None,
        tuple(forgot),
        (*provenance(models), *notes, *warnings(models)),
        runtime.versions(),
        torch.get_num_threads(),
        Times(
            datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            time.perf_counter() - began,
            runtime.peak_memory_bytes(),
            speeds,
        ),
    )


class _Measuring:
    """One model, open."""

    def __init__(
        self,
        subject: Subject,
        lm: LanguageModel,
        question: Question,
        held_out: Selection,
        on_step: Callable[[str], None],
    ) -> None:
        self.subject, self.lm, self.question = subject, lm, question
        self.held_out, self.on_step = held_out, on_step

    def read(self, text: Selection, what: str) -> Reading:
        self._step(f"reading {what}")
        return read(self.lm, [text for _, text in text.documents])

    def speed(self) -> Speed:
        return speed(self.lm, self.question.prompts[0], self.question.request)

    def all(self, letter: str, general: Reading | None, line: Sequence[Subject]) -> Measured:
        """Everything but the speed."""
        lm, config = self.lm, self.lm.config
        self._step("writing")
        try:
            written = write(lm, self.question.prompts, self.question.request, self.question.n)
        except RequestError as error:
            raise RequestError(f"{self.subject.name}: {error.problem}", error.remedy) from None
        reading = self.read(self.held_out, "held-out text")
        self._step("calibration")
        end = [lm.tokenizer.end_of_text]
        ids = lm.tokenizer.encode_batch(text for _, text in self.held_out.documents)
        calibration = calibrate(
            lm.model,
            [np.array(end + each) for each in ids],
            context=config.context,
            vocabulary=lm.tokenizer.vocab_size,
        )
        self._step("searching its training text")
        memorization, why_not, written = self._memorization(written, line)
        samples = zip(ids[:SAMPLES], reading.nats[:SAMPLES], strict=True)
        parameters = list(lm.model.parameters())
        return Measured(
            self.subject.name,
            facts(self.subject),
            letter,
            lm.tokenizer.vocab_size,
            config.context,
            sum(p.numel() for p in parameters),
            sum(p.numel() * p.element_size() for p in parameters),
            2 * config.layers * config.context * config.width * lm.model.head_weight.element_size(),
            reading,
            general,
            calibration,
            diversity([each.text for each in written]),
            memorization,
            why_not,
            tuple(written),
            tuple(
                tuple(span for span in spans(lm.tokenizer, some, nats.tolist()) if span.start < SAMPLE)
                for some, nats in samples
            ),
        )

    def _memorization(
        self, written: Sequence[Written], line: Sequence[Subject]
    ) -> tuple[Memorization | None, str, list[Written]]:
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

    def _training(self, line: Sequence[Subject]) -> tuple[str, Iterator[Piece]]:
        """The text to search, and what it is: what the model learned from, and the models before it."""
        if self.question.training:
            sources = list(self.question.training)
            return ", ".join(sources), training_files(sources)
        learned = [Learned(self.subject.training, self.lm.tokenizer)]
        searched = [learned[0].named]
        for above in line:
            try:
                learned.append(Learned(above.training, above.load_tokenizer()))
                searched.append(f"{learned[-1].named} (of {above.name})")
            except HandloomError:
                searched.append(f"not what {above.name} learned from, which is not at hand")
        return "; ".join(searched), chain.from_iterable(each.pieces() for each in learned)

    def _step(self, what: str) -> None:
        self.on_step(f"{self.subject.name}: {what}")


def _require_room(subjects: Sequence[Subject], question: Question) -> None:
    """Raise RequestError, naming the model, when a text would not fit one of them."""
    for subject in subjects:
        tokenizer = subject.load_tokenizer()
        for ids in tokenizer.encode_batch(question.prompts):
            try:
                require_room(len(ids), question.request, subject.context)
            except RequestError as error:
                raise RequestError(f"{subject.name}: {error.problem}", error.remedy) from None


def _held_out(question: Question, subjects: Sequence[Subject]) -> Selection:
    if question.data:
        return select_files(question.data, question.text_bytes)
    trained = next((subject for subject in subjects if subject.training), None)
    if trained is None:
        raise RequestError(
            "There is no held-out text: none of these models was trained here, where some would have been kept.",
            "Name a text with --data.",
        )
    try:
        learned = Learned(trained.training, trained.load_tokenizer())
        source = f"what {trained.name} held out of {learned.named}"
        return select(source, learned.held_out(), question.text_bytes)
    except HandloomError as error:
        raise RequestError(
            f"What {trained.name} held out cannot be read again: {error.problem}",
            "Name a held-out text with --data.",
        ) from None


def _general(question: Question, bases: Sequence[Subject]) -> Selection | None:
    """Text to see what was forgotten; None if no model was tuned and none was asked for."""
    if question.general:
        return select_files(question.general, question.text_bytes)
    if not bases:
        return None
    base = bases[0]
    try:
        learned = Learned(base.training, base.load_tokenizer())
        source = f"what {base.name} held out of {learned.named}"
        return select(source, learned.held_out(), question.text_bytes)
    except HandloomError:
        return select_files([GENERAL], question.text_bytes)


def _pieces_like(texts: Sequence[str], held_out: Selection) -> list[str]:
    """As many pieces of held-out text as there are texts, if there are so many, each of their mean length."""
    length = max(1, round(sum(map(len, texts)) / len(texts)))
    pieces = [
        text[at : at + length]
        for _, text in held_out.documents
        for at in range(0, max(1, len(text) - length + 1), length)
    ]
    return pieces[:: max(1, len(pieces) // len(texts))][: len(texts)]


def _share(found: Sequence[Copied]) -> Share:
    longest = max(
        (each.longest for each in found if each.longest), key=lambda one: one.characters, default=None
    )
    lengths = [each.longest.characters if each.longest else 0 for each in found]
    return Share(
        sum(each.grams for each in found),
        sum(len(each.found) for each in found),
        longest,
        sum(lengths) / max(1, len(lengths)),
    )


def _source(text: Selection, shown: int = 0) -> Source:
    names = tuple(name for name, _ in text.documents[:shown])
    return Source(text.source, len(text.documents), text.bytes, text.whole, names)
