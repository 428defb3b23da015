"""Checks running text: each document, copies among them, and the split that a run would make.

The text is read three times: to split it, to check it, and to count its tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from handloom.data import split as splitting
from handloom.data.chunking import chunk_text
from handloom.data.corpus import Corpus, Document, open_corpus
from handloom.data.lint.base import Job, copy_findings, finding_of
from handloom.data.lint.near_duplicates import Fingerprint, NearDuplicates
from handloom.data.lint.rules import Finding
from handloom.data.lint.stats import SAMPLE, script_and_language
from handloom.data.lint.text_checks import text_problems
from handloom.data.split import TRAIN, VALIDATION, SplitPlan, assign_splits
from handloom.data.text_io import Origin
from handloom.data.windows import check_held_out, count_windows
from handloom.errors import DataError


def lint_text(job: Job) -> Iterator[Finding]:
    """See `lint`."""
    corpus = open_corpus(job.sources, job.options())
    yield from job.faults()
    job.muted = True
    plan, refused = _split(corpus, job)
    job.stats.omissions.update(corpus.omissions if plan is None else plan.omissions)
    job.stats.separation = None if plan is None else plan.separation
    job.muted = False
    copies, places = NearDuplicates(), list[Origin]()
    for number, document in enumerate(corpus.documents()):
        place = document.origin or Origin(document.file, document.line)
        if document.origin or document.path:
            yield from job.start_of(document.path or Path(place.file), place.file)
        fingerprint = Fingerprint()
        yield from _check_document(document, place, fingerprint, job)
        if fingerprint.words:
            copies.add(number, fingerprint)
        places.append(place)
    yield from job.faults()
    job.muted = True
    if plan is not None:
        assignments = plan.assignments
        yield from copy_findings(
            copies, places, lambda one, other: assignments[one] != assignments[other], removed=True
        )
        _count_tokens(corpus, plan, job)
        if refused is None:
            yield from _check_split(plan, job)
    if refused is not None:
        yield refused


def _split(corpus: Corpus, job: Job) -> tuple[SplitPlan | None, Finding | None]:
    """The split that a run would make, with what is wrong about it."""
    settings = job.settings
    try:
        return assign_splits(corpus, validation_fraction=settings.validation_fraction, split=settings.split), None
    except DataError as error:
        refused = finding_of("one-side", error)
    try:
        return assign_splits(corpus, validation_fraction=0), refused
    except DataError as error:
        return None, finding_of("no-data", error)


def _check_document(document: Document, place: Origin, fingerprint: Fingerprint, job: Job) -> Iterator[Finding]:
    """What is wrong with one document, whose text also goes into `fingerprint`."""
    found = job.faults()
    if document.path is not None:
        found += job.bytes_of(document.path, document.name)
    yield from found
    not_utf8 = {fault.place.line for fault in found if fault.place and fault.kind == "encoding"}
    line, behind = place.line or 1, 0  # where a piece begins: its line, and how far into that
    characters, sample = 0, ""
    for piece in chunk_text(document.pieces()):
        ends = [found.start() for found in re.finditer("\n", piece)]
        for kind, start, detail in text_problems(piece):
            down = bisect_left(ends, start)
            at = Origin(place.file, line + down, start - ends[down - 1] if down else behind + start + 1)
            if document.origin:  # which holds a whole text, whatever lines that has
                at, detail = place, f"{detail} at character {characters + start + 1:,}"
            if kind != "replacement" or at.line not in not_utf8:  # or it would be reported twice
                yield Finding(kind, detail, at)
        line += len(ends)
        behind = len(piece) - ends[-1] - 1 if ends else behind + len(piece)
        characters += len(piece)
        sample += piece[: SAMPLE - len(sample)]
        fingerprint.add(piece)
    yield from job.faults()
    if characters == 0:
        yield Finding("empty-document", "nothing in it", place)
    elif not fingerprint.words:
        yield Finding("blank", f"{characters:,} characters", place)
    job.count_text(script_and_language(sample) if fingerprint.words else None)


def _count_tokens(corpus: Corpus, plan: SplitPlan, job: Job) -> None:
    """Count tokens as a run would prepare them."""
    length, name = 0, ""
    for piece in splitting.pieces(corpus, plan):
        if name and piece.name != name:
            job.stats.lengths.add(length)
            length = 0
        name = piece.name
        tokens = len(job.tokenizer.encode(piece.text)) + piece.ends
        length += tokens
        job.stats.tokens[piece.split] += tokens
        job.stats.sizes[piece.split] += len(piece.text.encode("utf-8"))
    if name:
        job.stats.lengths.add(length)


def _check_split(plan: SplitPlan, job: Job) -> Iterator[Finding]:
    """Sides of the split that are too short for a run."""
    stats, context_length, copies = job.stats, job.settings.context_length, plan.omissions["duplicate"]
    stats.policy = plan.policy
    stats.sides = [plan.count(TRAIN), plan.count(TRAIN if plan.policy == "tail" else VALIDATION)]
    train_bytes, held_out_bytes = stats.sizes
    for check in (
        partial(count_windows, stats.tokens[TRAIN], context_length, context_length, n_bytes=train_bytes, copies=copies),
        partial(check_held_out, stats.tokens[VALIDATION], n_bytes=held_out_bytes, copies=copies),
    ):
        try:
            check()
        except DataError as error:
            yield finding_of("one-side", error)
