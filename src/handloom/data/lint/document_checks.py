"""Checks running text: each document, copies among them, and the two sides that a run would make of them.

The text is walked three times: to part it, to look at it, and to count its tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from handloom.data import split as plans
from handloom.data.chunking import chunk_text
from handloom.data.corpus import Corpus, Document, open_corpus
from handloom.data.lint.base import DataStats, LintSettings, Notes
from handloom.data.lint.languages import SAMPLE, script_and_language
from handloom.data.lint.near_duplicates import FingerprintReader, NearDuplicates
from handloom.data.lint.rules import NOTE, Finding, Place
from handloom.data.lint.text_checks import text_problems
from handloom.data.lint.tolerant import Marks, faults_of, tolerant_records, where
from handloom.data.split import TRAIN, VALIDATION, SplitPlan, assign_splits
from handloom.data.windows import check_held_out, count_windows
from handloom.errors import DataError
from handloom.tokenizer.base import Tokenizer


def lint_text(
    sources: Sequence[str | Path],
    tokenizer: Tokenizer,
    settings: LintSettings,
    seen: DataStats,
    on_progress: Callable[[int], None],
) -> Iterator[Finding]:
    """See `lint`."""
    told = Notes()
    corpus = open_corpus(sources, tolerant_records(settings, told))
    yield from told.drain()
    told.listening = False
    plan, finding = _planned(corpus, settings)
    seen.omissions.update(corpus.omissions if plan is None else plan.omissions)
    seen.separation = None if plan is None else plan.separation
    told.listening = True
    copies, places, marks = NearDuplicates(), list[Place](), Marks()
    for number, document in enumerate(corpus.documents()):
        reading = FingerprintReader()
        if document.origin or document.path:
            file = document.origin.file if document.origin else document.file
            yield from marks.of(document.path or Path(file), file)
        yield from _document(document, reading, settings, seen, told)
        if reading.words:
            copies.add(number, reading.finish())
        places.append(_place_of(document))
        seen.texts += 1
        on_progress(seen.texts)
    yield from told.drain()
    told.listening = False
    if plan is not None:
        yield from _copies(copies, places, plan)
        yield from _lengths(corpus, plan, tokenizer, settings, seen, parted=finding is None)
    if finding is not None:
        yield finding


def _planned(corpus: Corpus, settings: LintSettings) -> tuple[SplitPlan | None, Finding | None]:
    """The parting that a run would make, with what is wrong about it."""
    try:
        plan = assign_splits(corpus, validation_fraction=settings.validation_fraction, split=settings.split)
        return plan, None
    except DataError as error:
        refused = error
    try:
        return assign_splits(corpus, validation_fraction=0), _of("one-side", refused)
    except DataError as error:
        return None, _of("no-data", error)


def _of(kind: str, error: DataError) -> Finding:
    return Finding(kind, error.problem.rstrip("."), remedy=error.remedy)


def _document(
    document: Document, reading: FingerprintReader, settings: LintSettings, seen: DataStats, told: Notes
) -> Iterator[Finding]:
    """What is wrong with one document, whose text is handed on to `reading`."""
    faults, at = list(told.drain()), _place_of(document)
    if document.path is not None:
        faults += faults_of(document.path, document.name, settings.encoding_errors)
    yield from faults
    not_utf8 = {fault.place.line for fault in faults if fault.place and fault.kind == "encoding"}
    line, behind = at.line or 1, 0  # where a piece begins: its line, and how far into that
    characters, sample = 0, ""
    for piece in chunk_text(document.pieces()):
        ends = [found.start() for found in re.finditer("\n", piece)]
        for kind, start, detail in text_problems(piece):
            down = bisect_left(ends, start)
            column = start - ends[down - 1] if down else behind + start + 1
            place = Place(at.file, line + down, column)
            if document.origin:  # which holds a whole text, whatever lines that has
                place, detail = at, f"{detail} at character {characters + start + 1:,}"
            if kind != "replacement" or place.line not in not_utf8:  # or that would be said twice
                yield Finding(kind, detail, place)
        line += len(ends)
        behind = len(piece) - ends[-1] - 1 if ends else behind + len(piece)
        characters += len(piece)
        sample += piece[: SAMPLE - len(sample)]
        reading.add(piece)
    yield from told.drain()
    if characters == 0:
        yield Finding("empty-document", "nothing in it", at)
    elif characters and not reading.words:
        yield Finding("blank", f"{characters:,} characters", at)
    elif characters:
        seen.languages[script_and_language(sample)] += 1


def _place_of(document: Document) -> Place:
    return where(document.origin) if document.origin else Place(document.file, document.line)


def _copies(copies: NearDuplicates, places: Sequence[Place], plan: SplitPlan) -> Iterator[Finding]:
    """Documents that say the same. A run leaves exact copies out, so these are nothing to worry about."""
    for number, earlier in copies.exact:
        remedy = "Nothing: a run leaves them out."
        detail = f"of {places[earlier]}"
        yield Finding("copy", detail, places[number], places[earlier], severity=NOTE, remedy=remedy)
    for number, earlier in copies.loose:
        across = plan.assignments[number] != plan.assignments[earlier]
        kind, detail = "copy-across" if across else "near-copy", f"of {places[earlier]}"
        detail += ", but for case and white space" if across else ""
        yield Finding(kind, detail, places[number], places[earlier])
    for number, earlier, share in copies.similar():
        kind = "similar-across" if plan.assignments[number] != plan.assignments[earlier] else "similar"
        detail = f"about {share:.0%} in common with {places[earlier]}"
        yield Finding(kind, detail, places[number], places[earlier], size=round(share * 100))


def _lengths(
    corpus: Corpus, plan: SplitPlan, tokenizer: Tokenizer, settings: LintSettings, seen: DataStats, parted: bool
) -> Iterator[Finding]:
    """Counts tokens as a run would prepare them, and finds sides that are too short for it."""
    length, name, sizes = 0, "", [0, 0]
    for piece in plans.pieces(corpus, plan):
        if name and piece.name != name:
            seen.lengths.add(length)
            length = 0
        name = piece.name
        tokens = len(tokenizer.encode(piece.text)) + piece.ends
        length += tokens
        seen.tokens[piece.split] += tokens
        sizes[piece.split] += len(piece.text.encode("utf-8"))
    if name:
        seen.lengths.add(length)
    if not parted:
        return
    seen.policy = plan.policy
    seen.sides = [plan.count(TRAIN), plan.count(TRAIN if plan.policy == "tail" else VALIDATION)]
    copies, context_length = plan.omissions["duplicate"], settings.context_length
    for check in (
        partial(count_windows, seen.tokens[TRAIN], context_length, context_length, n_bytes=sizes[TRAIN], copies=copies),
        partial(check_held_out, seen.tokens[VALIDATION], n_bytes=sizes[VALIDATION], copies=copies),
    ):
        try:
            check()
        except DataError as error:
            yield _of("one-side", error)
