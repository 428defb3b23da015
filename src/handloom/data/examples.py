"""Examples to tune on: conversations, pairs of answers, texts with labels, and on which side each is.

What a record has to look like is `forms`' business. Knows no tokens and no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

from handloom.data import forms, schema
from handloom.data.omissions import Omissions
from handloom.data.record_files import read_as
from handloom.data.sources import files_of, find_files, is_pipe
from handloom.data.text_io import IN_FOLDERS, Origin, ReadOptions, require_records
from handloom.errors import DataError
from handloom.tokenizer.chat import Message


@dataclass(frozen=True)
class Conversation:
    """Messages of a user and an assistant in turn, perhaps after one of the system; the last is an answer."""

    messages: tuple[Message, ...]
    origin: Origin
    MANY: ClassVar[str] = "conversations"

    @property
    def content(self) -> object:
        """All that it says, as JSON values; not where it came from."""
        return [[message.role, message.content, message.train] for message in self.messages]

    @property
    def parted_by(self) -> object:
        """What decides its side: conversations in which this is equal are never on both."""
        return [[message.role, message.content] for message in self.messages]

    @classmethod
    def of(cls, record: schema.Record) -> Conversation:
        """From one of the forms of `forms.conversation`."""
        return cls(forms.conversation(record), record.origin)


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, of which the first is preferred."""

    prompt: str | tuple[Message, ...]
    """A text that the answers go on from as they are, or the messages that they answer."""
    chosen: str
    rejected: str
    origin: Origin
    MANY: ClassVar[str] = "pairs"

    @property
    def content(self) -> object:
        """All that it says, as JSON values; not where it came from."""
        return [self.parted_by, self.chosen, self.rejected]

    @property
    def parted_by(self) -> object:
        """What decides its side: the prompt, to which there may be several pairs."""
        if isinstance(self.prompt, str):
            return self.prompt
        return [[message.role, message.content] for message in self.prompt]

    @classmethod
    def of(cls, record: schema.Record) -> PreferencePair:
        """From one of the forms of `forms.pair`."""
        return cls(*forms.pair(record), record.origin)


@dataclass(frozen=True)
class LabeledText:
    """A text and its label."""

    text: str
    label: str
    origin: Origin
    MANY: ClassVar[str] = "labelled texts"

    @property
    def content(self) -> object:
        """All that it says, as JSON values; not where it came from."""
        return [self.text, self.label]

    @property
    def parted_by(self) -> object:
        """What decides its side: the text, whatever its label."""
        return self.text

    @classmethod
    def of(cls, record: schema.Record) -> LabeledText:
        """From `{"text", "label"}`."""
        return cls(*forms.labelled(record), record.origin)


Example = Conversation | PreferencePair | LabeledText
E = TypeVar("E", Conversation, PreferencePair, LabeledText)

KINDS: dict[str, type[Conversation] | type[PreferencePair] | type[LabeledText]] = {
    "sft": Conversation,
    "dpo": PreferencePair,
    "classify": LabeledText,
}
"""What each task takes."""


def read_examples(
    kind: type[E],
    sources: Iterable[str | Path] | str | Path,
    encoding_errors: str = "strict",
    omissions: Omissions | None = None,
) -> list[E]:
    """Every example of some files, in order.

    Args:
        kind: which there should be.
        sources: each a file of records, a folder of such (walked as for text), or a glob.
        encoding_errors: see `ReadOptions`.
        omissions: told what was left out.

    Raises:
        DataError: for the first record that is none, naming file and line; or when there are no files, or no
            records in them.
        ConfigError: an unknown `encoding_errors`.
    """
    names = [str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    found = list(stream_examples(kind, names, ReadOptions(encoding_errors=encoding_errors), omissions))
    if not found:
        raise DataError(f"{', '.join(names)}: no records, only blank lines.", "Name files that hold some.")
    return found


def stream_examples(
    kind: type[E], sources: Iterable[str], options: ReadOptions, omissions: Omissions | None = None
) -> Iterator[E]:
    """The same, one after the other; with an `on_error` in the options to the end, whatever is wrong."""
    names = list(dict.fromkeys(sources))
    omissions = Omissions() if omissions is None else omissions
    if not names:
        raise DataError("No data was named.", "Name .jsonl files: --data FILE.")
    find = partial(example_files, omissions=omissions)
    found = [path for name in names for path in find_files(find, name, options, len(names) == 1)]

    def example(record: schema.Record) -> E:
        made = kind.of(record)
        for reason, by in record.omitted:
            omissions.add(reason, by=by)
        return made

    for path in dict.fromkeys(found):
        yield from read_as(example, path, options)


def validation_mask(examples: Sequence[Example], validation_fraction: float) -> list[bool]:
    """For each example whether it is held out.

    That hangs on its own content alone (SHA-256), as the side of a document does: copies are never on both sides,
    and more data does not move what was there. The share is met on average. Where that leaves one side empty, the
    example nearest to the other side crosses over.

    Raises:
        DataError: when all examples are alike, so that one side would stay empty.
    """
    places = [split_fraction(example) for example in examples]
    if min(places) == max(places):
        kind = type(examples[0])
        what = {PreferencePair: "prompt", LabeledText: "text"}.get(kind, "conversation")
        raise DataError(
            f"There is only one {what} in {len(examples)} {kind.MANY}, which leaves none to hold out."
            if len(examples) > 1
            else f"There is only one example ({examples[0].origin}), which leaves none to hold out.",
            "Give at least two that differ; a few hundred are a beginning.",
        )
    return held_out_of(places, validation_fraction)


def held_out_of(places: Sequence[float], validation_fraction: float) -> list[bool]:
    """The same, of examples of which only the places are known; not all of these are equal."""
    low, high = min(places), max(places)
    mark = validation_fraction if low < validation_fraction else math.nextafter(low, 1)
    return [place < min(mark, high) for place in places]  # true of `low`, and not of `high`


def part(examples: Sequence[E], validation_fraction: float) -> tuple[list[E], list[E]]:
    """Training and held-out examples, each in their order; see `validation_mask`."""
    sides: tuple[list[E], list[E]] = ([], [])
    for example, out in zip(examples, validation_mask(examples, validation_fraction), strict=True):
        sides[out].append(example)
    return sides


def digest(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over what the examples say, in their order."""
    total = hashlib.sha256()
    for example in examples:
        total.update(_hash(example.content))
    return total.hexdigest()


def _hash(content: object) -> bytes:
    return hashlib.sha256(json.dumps(content).encode("ascii")).digest()


def split_fraction(example: Example) -> float:
    """A number drawn evenly from [0, 1), the same on every machine, that decides an example's side."""
    return int.from_bytes(_hash(example.parted_by)[:8], "big") / 2**64


def example_files(source: str, omissions: Omissions | None = None) -> list[Path]:
    """The files of records that a name stands for.

    Raises:
        DataError: a source that is missing, empty, or no file of records.
    """
    if source == "-" or is_pipe(source):
        raise DataError(
            f"Examples cannot come through {'standard input' if source == '-' else f'the pipe {source}'}: a run reads "
            "them again when it goes on.",
            "Write them to a .jsonl file.",
        )
    found = files_of(source, IN_FOLDERS, omissions)
    for path in found:
        require_records(path)
    return found
