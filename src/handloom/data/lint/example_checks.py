"""Checks examples to tune on: each one, copies among them, and the two sides that a run would make of them."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from handloom.data.encoding import ExampleEncoder, encode_conversations, encode_labeled, encode_pairs, in_ids, room_for
from handloom.data.examples import (
    KINDS,
    Conversation,
    Example,
    LabeledText,
    PreferencePair,
    mask_of_fractions,
    split_fraction,
    stream_examples,
)
from handloom.data.lint.base import DataStats, LintSettings, Notes
from handloom.data.lint.label_checks import LabelChecks
from handloom.data.lint.languages import script_and_language
from handloom.data.lint.near_duplicates import Fingerprint, NearDuplicates, fingerprint_of, normalize
from handloom.data.lint.rules import WARNING, Finding, Place
from handloom.data.lint.text_checks import text_problems
from handloom.data.lint.tolerant import Marks, tolerant_records, where
from handloom.errors import DataError
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import encode_conversation


def lint_examples(
    sources: Sequence[str | Path],
    tokenizer: Tokenizer,
    settings: LintSettings,
    seen: DataStats,
    on_progress: Callable[[int], None],
) -> Iterator[Finding]:
    """See `lint`."""
    told, sides, known = Notes(), _Sides(), _Known()
    fitting = ExampleEncoder(settings.context_length, settings.overlong, seen.omissions)
    kind, marks = KINDS[settings.task], Marks()
    options = tolerant_records(settings, told)
    for example in stream_examples(kind, map(str, sources), options, seen.omissions):  # type: ignore[type-var]
        place = where(example.origin)
        yield from marks.of(Path(place.file), place.file)
        faults = list(told.drain())
        yield from faults
        not_utf8 = any(fault.kind == "encoding" and fault.place == place for fault in faults)
        yield from _oddities(example, place, not_utf8)
        finding, length = _fitted(example, tokenizer, fitting, place)
        if finding is not None:
            yield finding
        left_out = settings.overlong == "skip" and finding is not None and finding.kind == "overlong"
        yield from known.add(example, place)
        sides.add(None if left_out else split_fraction(example))
        seen.lengths.add(length)
        seen.languages[script_and_language(" ".join(part.text for part in _parts(example)))] += 1
        seen.texts += 1
        on_progress(seen.texts)
    yield from told.drain()
    parted, finding = sides.part(settings)
    if finding is not None:
        yield finding
    seen.sides = [parted.count(0), parted.count(1)]
    yield from known.across(parted)
    if kind is LabeledText:
        seen.labels = known.labels.count(parted)
        yield from known.labels.check(seen.labels, known.places)


class _Sides:
    """Where each example lies on the line that a run cuts in two; not a number for what is left out."""

    def __init__(self) -> None:
        self._places = array("d")

    def add(self, place: float | None) -> None:
        self._places.append(float("nan") if place is None else place)

    def part(self, settings: LintSettings) -> tuple[list[int | None], Finding | None]:
        """0 for each example to learn from, 1 for each that is held out, None where a run has neither."""
        kept = [place for place in self._places if place == place]
        if not kept:
            what = KINDS[settings.task].MANY
            detail = f"all {len(self._places):,} are longer than a row" if self._places else f"no {what} at all"
            return [None] * len(self._places), Finding("no-data", detail)
        if min(kept) == max(kept):
            detail = f"{len(kept):,} examples, all alike: none can be held out"
            remedy = "Give at least two that differ; a few hundred are a beginning."
            return [None] * len(self._places), Finding("one-side", detail, remedy=remedy)
        held_out = iter(mask_of_fractions(kept, settings.validation_fraction))
        return [int(next(held_out)) if place == place else None for place in self._places], None


class _Known:
    """What is kept of all examples so far, to find those that say the same."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.labels = LabelChecks()
        self._copies = NearDuplicates()
        self._questions: dict[bytes, tuple[int, bytes]] = {}
        self._asked_again: list[tuple[int, int, str]] = []

    def add(self, example: Example, place: Place) -> Iterator[Finding]:
        """One more example; found are contradictions between labels."""
        number = len(self.places)
        self.places.append(place)
        found = _print(example)
        self._copies.add(number, found)
        if isinstance(example, LabeledText):
            yield from self.labels.add(found.loose, example.label, place, self.places)
            return
        question, answer = _question(example)
        first, answered = self._questions.setdefault(question, (number, answer))
        if first != number:
            how = "the same answer" if answer == answered else "another answer"
            self._asked_again.append((number, first, how))

    def across(self, sides: Sequence[int | None]) -> Iterator[Finding]:
        """Copies, on one side or on both, and questions that are asked on both."""
        copied = set()
        pairs = [(*pair, "copy") for pair in self._copies.exact]
        pairs += [(*pair, "near-copy") for pair in self._copies.loose]
        for number, earlier, kind in sorted(pairs):
            copied.add(number)
            detail = f"of {self.places[earlier]}"
            if _apart(sides, number, earlier):
                detail += ", but for case and white space" if kind == "near-copy" else ""
                kind = "copy-across"
            elif number in self.labels.conflicts:
                continue
            yield Finding(kind, detail, self.places[number], self.places[earlier])
        for number, earlier, how in self._asked_again:
            if number not in copied and _apart(sides, number, earlier):
                copied.add(number)
                detail = f"as at {self.places[earlier]}, with {how}"
                yield Finding("question-across", detail, self.places[number], self.places[earlier])
        for number, earlier, share in self._copies.similar():
            if number not in copied:
                kind = "similar-across" if _apart(sides, number, earlier) else "similar"
                detail = f"about {share:.0%} in common with {self.places[earlier]}"
                size = round(share * 100)
                yield Finding(kind, detail, self.places[number], self.places[earlier], size=size)


def _apart(sides: Sequence[int | None], number: int, other: int) -> bool:
    return None not in (sides[number], sides[other]) and sides[number] != sides[other]


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


def _oddities(example: Example, place: Place, not_utf8: bool) -> Iterator[Finding]:
    for part in _parts(example):
        for kind, start, detail in text_problems(part.text, turns=not isinstance(example, LabeledText)):
            if kind != "replacement" or not not_utf8:  # or that would be said twice
                yield Finding(kind, f"{detail} at character {start + 1:,} of {part.name}", place)


def _print(example: Example) -> Fingerprint:
    """Of what an example says: of a labelled text without its label, of a conversation without the system's words."""
    said = example.text if isinstance(example, LabeledText) else json.dumps(example.content)
    return fingerprint_of(said, (part.text for part in _parts(example) if part.role != "system"))


def _question(example: Conversation | PreferencePair) -> tuple[bytes, bytes]:
    """Hashes of what is asked and of what is answered, but for case and white space.

    Of a conversation that is all before the first answer that is learned, and that answer.
    """
    parts = list(_parts(example))
    if isinstance(example, PreferencePair):
        asked, answers = parts[:-2], parts[-2:]
    else:
        answers_at = [n for n, message in enumerate(example.messages) if message.role == "assistant"]
        first = next((n for n in answers_at if example.messages[n].train), answers_at[0])
        asked, answers = parts[:first], parts[first : first + 1]
    return _hash(asked), _hash(answers)


def _hash(parts: list[_Part]) -> bytes:
    return hashlib.sha256(json.dumps([normalize(part.text) for part in parts]).encode("ascii")).digest()[:16]


def _fitted(
    example: Example, tokenizer: Tokenizer, fitting: ExampleEncoder, place: Place
) -> tuple[Finding | None, int]:
    """What a run would say of an example's length or of what it teaches, and the length in tokens."""
    try:
        texts = in_ids(example, tokenizer)
    except DataError as error:
        assert isinstance(example, Conversation)
        return _nothing(error, example, place), len(encode_conversation(tokenizer, example.messages).ids)
    length, room = max(len(text.ids) for text in texts), room_for(type(example), fitting.context_length)
    if length <= room:
        return None, length
    detail = f"{length:,} tokens, where a row has room for {room:,}"
    if fitting.policy == "error":
        return Finding("overlong", detail, place, size=length), length
    try:
        if fitting.policy == "skip":
            fitting.fit(texts, example.origin, room)
        elif isinstance(example, Conversation):
            encode_conversations([example], tokenizer, fitting)
        elif isinstance(example, PreferencePair):
            encode_pairs([example], tokenizer, fitting)
        else:
            encode_labeled([example], tokenizer, fitting)
    except DataError as error:
        return _nothing(error, example, place), length
    what = "cut off" if fitting.policy == "truncate" else "left out"
    remedy = f"Nothing, if they may be {what}; that is what --overlong {fitting.policy} does."
    return Finding("overlong", detail, place, size=length, severity=WARNING, remedy=remedy), length


def _nothing(error: DataError, example: Example, place: Place) -> Finding:
    problem = error.problem.removeprefix(f"{example.origin}: ").rstrip(".")
    return Finding("nothing-learned", problem, place, remedy=error.remedy)
