"""Several models, the same questions: every measure of a comparison, one model in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone

import torch

from handloom import runtime
from handloom.errors import HandloomError, RequestError
from handloom.evaluation.bits_per_byte import difference, score_text
from handloom.evaluation.comparison_config import ComparisonConfig, settings_of
from handloom.evaluation.measuring import SAMPLES, Measuring
from handloom.evaluation.provenance import Find, ModelEntry, base_models, collect
from handloom.evaluation.report import Forgetting, ModelResult, Report, Source, Times
from handloom.evaluation.sample_documents import Selection, select, select_files
from handloom.evaluation.samples import speed
from handloom.evaluation.statements import provenance, warnings
from handloom.evaluation.training_text import TrainingText
from handloom.inference.engine import require_room

GENERAL = "python-docs"
"""The general text where a base model does not say what it learned from: about 2 MB of English."""


def compare(
    names: Sequence[str], question: ComparisonConfig, find: Find, on_step: Callable[[str], None] = lambda step: None
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
    subjects = collect(names, find)
    _require_room(subjects, question)
    notes: list[str] = []
    lines = {}
    for subject in subjects:
        line, missing = base_models(subject, subjects, find)
        lines[subject.name] = line
        if missing:
            notes.append(f"What {subject.name} was tuned from cannot be compared with it: {missing}")
    roots = [(lines[subject.name] or [subject])[-1] for subject in subjects]
    from_scratch = all(root.training and root.base is None for root in roots)
    held_out = _held_out(question, subjects)
    general = _general(question, [line[0] for line in lines.values() if line])
    letters: dict[str, str] = {}
    models, speeds = [], {}
    for subject in subjects:
        on_step(f"{subject.name}: opening")
        lm = subject.open()
        letter = letters.setdefault(lm.tokenizer.fingerprint, chr(ord("A") + len(letters)))
        models.append(Measuring(subject, lm, question, held_out, on_step).all(letter, general, lines[subject.name]))
        on_step(f"{subject.name}: looking at the clock")
        speeds[subject.name] = speed(lm, question.prompts[0], question.request)
        del lm  # before the next is opened
    return Report(
        tuple(models),
        question.prompts,
        question.n,
        settings_of(question.request),
        _source(held_out, SAMPLES),
        _source(general) if general else None,
        tuple(_forgot(subjects, models, lines, general, on_step)) if general else (),
        (*provenance(models, from_scratch), *notes, *warnings(models)),
        runtime.versions(),
        torch.get_num_threads(),
        Times(
            datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            time.perf_counter() - began,
            runtime.peak_memory_bytes(),
            speeds,
        ),
    )


def _forgot(
    subjects: Sequence[ModelEntry],
    models: Sequence[ModelResult],
    lines: Mapping[str, list[ModelEntry]],
    general: Selection,
    on_step: Callable[[str], None],
) -> Iterator[Forgetting]:
    """For each tuned model how it and its base read general text; a base that is not compared is opened for this."""
    read_by = {subject.folder: model.general for subject, model in zip(subjects, models, strict=True) if model.general}
    for subject in subjects:
        if lines[subject.name]:
            base = lines[subject.name][0]
            if base.folder not in read_by:
                on_step(f"{base.name}: reading general text")
                read_by[base.folder] = score_text(base.open(), [text for _, text in general.documents])
            before, after = read_by[base.folder], read_by[subject.folder]
            yield Forgetting(subject.name, base.name, before, after, difference(after, before))


def _require_room(subjects: Sequence[ModelEntry], question: ComparisonConfig) -> None:
    """Raise RequestError, naming the model, when a text would not fit one of them."""
    for subject in subjects:
        tokenizer = subject.load_tokenizer()
        for ids in tokenizer.encode_batch(question.prompts):
            try:
                require_room(len(ids), question.request, subject.context_length)
            except RequestError as error:
                raise RequestError(f"{subject.name}: {error.problem}", error.remedy) from None


def _held_out(question: ComparisonConfig, subjects: Sequence[ModelEntry]) -> Selection:
    if question.data:
        return select_files(question.data, question.text_bytes)
    trained = next((subject for subject in subjects if subject.training), None)
    if trained is None:
        raise RequestError(
            "There is no held-out text: none of these models was trained here, where some would have been kept.",
            "Name a text with --data.",
        )
    try:
        learned = TrainingText(trained.training, trained.load_tokenizer())
        source = f"what {trained.name} held out of {learned.named}"
        return select(source, learned.held_out(), question.text_bytes)
    except HandloomError as error:
        raise RequestError(
            f"What {trained.name} held out cannot be read again: {error.problem}", "Name a held-out text with --data."
        ) from None


def _general(question: ComparisonConfig, bases: Sequence[ModelEntry]) -> Selection | None:
    """Text to see what was forgotten; None if no model was tuned and none was asked for."""
    if question.general:
        return select_files(question.general, question.text_bytes)
    if not bases:
        return None
    base = bases[0]
    try:
        learned = TrainingText(base.training, base.load_tokenizer())
        source = f"what {base.name} held out of {learned.named}"
        return select(source, learned.held_out(), question.text_bytes)
    except HandloomError:
        return select_files([GENERAL], question.text_bytes)


def _source(text: Selection, shown: int = 0) -> Source:
    names = tuple(name for name, _ in text.documents[:shown])
    return Source(text.source, len(text.documents), text.bytes, text.whole, names)
