"""Checks examples to finetune on: each one, copies among them, their labels, and the split that a run would make."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from handloom.data import examples as reading
from handloom.data.examples import KINDS, Conversation, Example, LabeledText, PreferencePair
from handloom.data.lint.base import Job, copy_findings, finding_of
from handloom.data.lint.near_duplicates import Fingerprint, NearDuplicates, normalize
from handloom.data.lint.rules import WARNING, Finding
from handloom.data.lint.stats import script_and_language
from handloom.data.lint.text_checks import text_problems
from handloom.data.split import SPLITS
from handloom.data.text_io import Origin
from handloom.errors import DataError
from handloom.tokenizer.chat import encode_conversation

UNBALANCED = 10  # how many times as frequent as another a label may be


def lint_examples(job: Job) -> Iterator[Finding]:
    """See `lint`."""
    settings, stats, known = job.settings, job.stats, _Examples()
    encoder = reading.ExampleEncoder(settings.context_length, settings.overlong, stats.omissions)
    kind = KINDS[settings.task]
    for example in reading.stream_examples(kind, map(str, job.sources), job.options(), stats.omissions):  # type: ignore[type-var]
        place = example.origin
        yield from job.start_of(Path(place.file), place.file)
        found = job.faults()
        yield from found
        not_utf8 = any(fault.kind == "encoding" and fault.place == place for fault in found)
        yield from _text_findings(example, place, not_utf8)
        finding, length = _length_finding(example, job, encoder, place)
        if finding is not None:
            yield finding
        left_out = settings.overlong == "skip" and finding is not None and finding.kind == "overlong"
        yield from known.add(example, place, left_out)
        stats.lengths.add(length)
        job.count_text(script_and_language(" ".join(part.text for part in _parts(example))))
    yield from job.faults()
    sides, finding = known.split(job)
    if finding is not None:
        yield finding
    stats.sides = [sides.count(0), sides.count(1)]
    yield from known.copies(sides)
    if kind is LabeledText:
        stats.labels = known.count_labels(sides)
        yield from known.label_findings(stats.labels)


class _Examples:
    """What is kept of each example, by its number, to find copies, labels that contradict, and the split."""

    def __init__(self) -> None:
        self._places: list[Origin] = []
        self._fractions = array("d")  # where the split cuts; not a number for what is left out
        self._copies = NearDuplicates()
        self._questions: dict[bytes, tuple[int, bytes]] = {}
        self._asked_again: list[tuple[int, int, str]] = []
        self._labels: list[str] = []
        self._texts: dict[bytes, int] = {}
        self._conflicts: set[int] = set()  # texts with another label elsewhere

    def add(self, example: Example, place: Origin, left_out: bool) -> Iterator[Finding]:
        """One more example; the findings are contradictions between labels."""
        number = len(self._places)
        self._places.append(place)
        self._fractions.append(float("nan") if left_out else reading.split_fraction(example))
        content = example.text if isinstance(example, LabeledText) else json.dumps(example.content)
        found = Fingerprint(content)
        for part in _parts(example):
            if part.role != "system":  # which many examples have in common
                found.add(part.text)
        self._copies.add(number, found)
        if isinstance(example, LabeledText):
            self._labels.append(example.label)
            earlier = self._texts.setdefault(found.loose, number)
            if self._labels[earlier] != example.label:
                self._conflicts.add(number)
                detail = f"{example.label!r}, but {self._labels[earlier]!r} at {self._places[earlier].short}"
                yield Finding("label-conflict", detail, place, self._places[earlier])
            return
        question, answer = _question(example)
        first, answered = self._questions.setdefault(question, (number, answer))
        if first != number:
            how = "the same answer" if answer == answered else "another answer"
            self._asked_again.append((number, first, how))

    def split(self, job: Job) -> tuple[list[int | None], Finding | None]:
        """For each example 0 (to learn from), 1 (held out) or None (neither), and what is wrong with the split."""
        kept = [fraction for fraction in self._fractions if fraction == fraction]
        neither: list[int | None] = [None] * len(self._fractions)
        if not kept:
            what = KINDS[job.settings.task].MANY
            detail = f"all {len(neither):,} are longer than a row" if neither else f"no {what} at all"
            return neither, Finding("no-data", detail)
        if min(kept) == max(kept):
            detail = f"{len(kept):,} examples, all alike: none can be held out"
            remedy = "Give at least two that differ; a few hundred are a beginning."
            return neither, Finding("one-side", detail, remedy=remedy)
        held_out = iter(reading.mask_of_fractions(kept, job.settings.validation_fraction))
        return [int(next(held_out)) if fraction == fraction else None for fraction in self._fractions], None

    def copies(self, sides: Sequence[int | None]) -> Iterator[Finding]:
        """Copies, on one side or on both, and questions that are asked on both."""

        def apart(number: int, other: int) -> bool:
            return None not in (sides[number], sides[other]) and sides[number] != sides[other]

        yield from copy_findings(
            self._copies, self._places, apart, conflicts=self._conflicts, questions=self._asked_again
        )

    def count_labels(self, sides: Sequence[int | None]) -> dict[str, list[int]]:
        """Of each label the texts to learn from, and held out; the most frequent label first."""
        counts: dict[str, list[int]] = {}
        for label, side in zip(self._labels, sides, strict=True):
            numbers = counts.setdefault(label, [0, 0])
            if side is not None:
                numbers[side] += 1
        return dict(sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0])))

    def label_findings(self, counts: dict[str, list[int]]) -> Iterator[Finding]:
        """What is wrong with the labels as a whole."""
        totals = {label: sum(numbers) for label, numbers in counts.items() if sum(numbers)}
        if len(totals) == 1:
            yield Finding("one-label", f"{next(iter(totals))!r}")
            return
        for label, total in totals.items():
            if total == 1:
                yield Finding("rare-label", repr(label), self._places[self._labels.index(label)])
                continue
            for side, name in enumerate(SPLITS):
                if not counts[label][side]:
                    yield Finding("label-side", f"{label!r} is not in {name} ({total:,} texts)")
        if totals and max(totals.values()) >= UNBALANCED * min(totals.values()):
            (most, many), (least, few) = next(iter(totals.items())), list(totals.items())[-1]
            yield Finding("unbalanced", f"{most!r} {many:,} times, {least!r} {few:,}")


class _Part(NamedTuple):
    """One text of an example."""

    name: str
    text: str
    role: str = ""


def _parts(example: Example) -> Iterator[_Part]:
    if isinstance(example, LabeledText):
        yield _Part("the text", example.text)
        return
    prompt = example.messages if isinstance(example, Conversation) else example.prompt
    if isinstance(prompt, str):
        yield _Part("the prompt", prompt)
    else:
        for number, message in enumerate(prompt):
            yield _Part(f"message {number} ({message.role})", message.content, message.role)
    if isinstance(example, PreferencePair):
        yield _Part("chosen", example.chosen, "assistant")
        yield _Part("rejected", example.rejected, "assistant")


def _text_findings(example: Example, place: Origin, not_utf8: bool) -> Iterator[Finding]:
    for part in _parts(example):
        for kind, start, detail in text_problems(part.text, turns=not isinstance(example, LabeledText)):
            if kind != "replacement" or not not_utf8:  # or it would be reported twice
                yield Finding(kind, f"{detail} at character {start + 1:,} of {part.name}", place)


def _question(example: Conversation | PreferencePair) -> tuple[bytes, bytes]:
    """Hashes of the question and of the answer, but for case and white space.

    The question of a conversation is all before the first answer that is a training target.
    """
    parts = list(_parts(example))
    if isinstance(example, PreferencePair):
        return _hash(parts[:-2]), _hash(parts[-2:])
    answers_at = [n for n, message in enumerate(example.messages) if message.role == "assistant"]
    first = next((n for n in answers_at if example.messages[n].train), answers_at[0])
    return _hash(parts[:first]), _hash(parts[first : first + 1])


def _hash(parts: list[_Part]) -> bytes:
    return hashlib.sha256(json.dumps([normalize(part.text) for part in parts]).encode("ascii")).digest()[:16]


def _length_finding(
    example: Example, job: Job, encoder: reading.ExampleEncoder, place: Origin
) -> tuple[Finding | None, int]:
    """What a run would report about an example's length or its training targets, and the length in tokens."""
    prefix = f"{example.origin}: "
    try:
        texts = reading.in_ids(example, job.tokenizer)
    except DataError as error:
        assert isinstance(example, Conversation)
        length = len(encode_conversation(job.tokenizer, example.messages).ids)
        return finding_of("nothing-learned", error, place, prefix), length
    length, room = max(len(text.ids) for text in texts), reading.room_for(example, encoder.context_length)
    if length <= room:
        return None, length
    detail = f"{length:,} tokens, where a row has room for {room:,}"
    if encoder.policy == "error":
        return Finding("overlong", detail, place, size=length), length
    try:
        if encoder.policy == "skip":
            encoder.fit(texts, example.origin, room)
        else:
            encoder.encode([example], job.tokenizer)  # type: ignore[type-var]
    except DataError as error:
        return finding_of("nothing-learned", error, place, prefix), length
    what = "cut off" if encoder.policy == "truncate" else "left out"
    remedy = f"Nothing, if they may be {what}: `overlong={encoder.policy}` does that."
    return Finding("overlong", detail, place, size=length, severity=WARNING, remedy=remedy), length
