"""Examples to tune on: conversations, preference pairs, labelled texts; read, split, and made into ids.

Every kind of example has `content`: all of it as JSON values, but for its origin; a `split_key`: examples with equal
keys go to the same split, and of a pair that is the prompt, of a labelled text the text; and `of(record)`, by the
function of `schema`. What is longer than a row is refused, truncated or left out. Knows no batches and no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

from handloom.data import schema
from handloom.data.omissions import Omissions
from handloom.data.record_files import read_as
from handloom.data.sources import files_of, find_files, is_pipe
from handloom.data.text_io import IN_FOLDERS, Origin, ReadOptions, require_records
from handloom.errors import DataError
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import EncodedChat, Message, encode_conversation, encode_generation_prompt


@dataclass(frozen=True)
class Conversation:
    """Messages of a user and an assistant in turn, perhaps after one of the system; the last is an answer."""

    messages: tuple[Message, ...]
    origin: Origin
    MANY: ClassVar[str] = "conversations"

    @property
    def content(self) -> object:
        return [astuple(message) for message in self.messages]

    @property
    def split_key(self) -> object:
        return [[message.role, message.content] for message in self.messages]

    @classmethod
    def of(cls, record: schema.Record) -> Conversation:
        return cls(schema.conversation(record), record.origin)


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, of which the first is preferred."""

    prompt: str | tuple[Message, ...]  # a text that the answers continue as they are, or the messages they answer
    chosen: str
    rejected: str
    origin: Origin
    MANY: ClassVar[str] = "pairs"

    @property
    def content(self) -> object:
        return [self.split_key, self.chosen, self.rejected]

    @property
    def split_key(self) -> object:
        if isinstance(self.prompt, str):
            return self.prompt
        return [[message.role, message.content] for message in self.prompt]

    @classmethod
    def of(cls, record: schema.Record) -> PreferencePair:
        return cls(*schema.pair(record), record.origin)


@dataclass(frozen=True)
class LabeledText:
    """A text and its label."""

    text: str
    label: str
    origin: Origin
    MANY: ClassVar[str] = "labelled texts"

    @property
    def content(self) -> object:
        return [self.text, self.label]

    @property
    def split_key(self) -> object:
        return self.text

    @classmethod
    def of(cls, record: schema.Record) -> LabeledText:
        return cls(*schema.labeled(record), record.origin)


Example = Conversation | PreferencePair | LabeledText
E = TypeVar("E", Conversation, PreferencePair, LabeledText)

KINDS: dict[str, type[Conversation] | type[PreferencePair] | type[LabeledText]] = {
    "sft": Conversation,
    "dpo": PreferencePair,
    "classify": LabeledText,
}
"""The examples of each task."""


def read_examples(
    kind: type[E],
    sources: Iterable[str | Path] | str | Path,
    encoding_errors: str = "strict",
    omissions: Omissions | None = None,
) -> list[E]:
    """Every example of some files, in order.

    Each source is a file of records, a folder of such (walked as for text), or a glob; `omissions` counts what was left
    out. Raises DataError for the first record that is not an example of that kind, naming file and line, and when there
    are neither files nor records; ConfigError for an unknown `encoding_errors`.
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
        raise DataError("No data was named.", "Name .jsonl files in `data`.")
    find = partial(example_files, omissions=omissions)
    found = [path for name in names for path in find_files(find, name, options, len(names) == 1)]

    def example(record: schema.Record) -> E:
        made = kind.of(record)
        for reason, by in record.omitted:
            omissions.add(reason, by=by)
        return made

    for path in dict.fromkeys(found):
        yield from read_as(example, path, options)


def example_files(source: str, omissions: Omissions | None = None) -> list[Path]:
    """The files of records that a name stands for; DataError if it is missing, empty, or not a file of records."""
    if source == "-" or is_pipe(source):
        raise DataError(
            f"Examples cannot come through {'standard input' if source == '-' else f'the pipe {source}'}: a run reads "
            "them again when it is resumed.",
            "Write them to a .jsonl file.",
        )
    found = files_of(source, IN_FOLDERS, omissions)
    for path in found:
        require_records(path)
    return found


def validation_mask(examples: Sequence[Example], validation_fraction: float) -> list[bool]:
    """For each example whether it is held out.

    That depends on its `split_key` alone (SHA-256), as the split of a document does: copies are never in both splits,
    and more data does not move what was there. The fraction is met on average. Where that leaves one split empty, the
    example nearest to the other crosses over. Raises DataError when all keys are equal, so that one would stay empty.
    """
    fractions = [split_fraction(example) for example in examples]
    if min(fractions) == max(fractions):
        kind = type(examples[0])
        what = {PreferencePair: "prompt", LabeledText: "text"}.get(kind, "conversation")
        raise DataError(
            f"There is only one {what} in {len(examples)} {kind.MANY}, which leaves none to hold out."
            if len(examples) > 1
            else f"There is only one example ({examples[0].origin}), which leaves none to hold out.",
            "Give at least two that differ; a few hundred are a beginning.",
        )
    return mask_of_fractions(fractions, validation_fraction)


def mask_of_fractions(fractions: Sequence[float], validation_fraction: float) -> list[bool]:
    """The same, of examples of which only the `split_fraction` is known; not all of these are equal."""
    low, high = min(fractions), max(fractions)
    mark = validation_fraction if low < validation_fraction else math.nextafter(low, 1)
    return [fraction < min(mark, high) for fraction in fractions]  # true of `low`, and not of `high`


def split_fraction(example: Example) -> float:
    """A number drawn evenly from [0, 1), the same on every machine, that decides an example's split."""
    return int.from_bytes(_hash(example.split_key)[:8], "big") / 2**64


def digest(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over the content of the examples, in their order."""
    return hashlib.sha256(b"".join(_hash(example.content) for example in examples)).hexdigest()


def _hash(content: object) -> bytes:
    return hashlib.sha256(json.dumps(content).encode("ascii")).digest()


@dataclass
class ExampleEncoder:
    """Makes texts fit a row of `context_length` tokens, and counts those that did not.

    `policy` is `error`, `truncate` (their end is left out) or `skip` (the example is).
    """

    context_length: int
    policy: str
    omissions: Omissions = field(default_factory=Omissions)

    def fit(self, texts: Sequence[EncodedChat], origin: Origin, room: int) -> list[EncodedChat] | None:
        """The texts of one example, each at most `room` tokens long; None when it is to be left out.

        Raises DataError when the policy is `error`, and one is longer.
        """
        longest = max(len(text.ids) for text in texts)
        if longest <= room:
            return list(texts)
        if self.policy == "error":
            raise DataError(
                f"{origin}: {longest:,} tokens, but a row has room for {room:,} (context {self.context_length:,}).",
                "Shorten it, raise `context_length` if the model has a longer one, or use `overlong=truncate`, which "
                "leaves out the end of such examples, or `overlong=skip`, which leaves them out.",
                setting="overlong",
            )
        self.omissions.add("truncated" if self.policy == "truncate" else "overlong", str(origin))
        return None if self.policy == "skip" else [EncodedChat(t.ids[:room], t.loss_mask[:room]) for t in texts]

    def encode(self, examples: Iterable[E], tokenizer: Tokenizer) -> list[tuple[E, list[EncodedChat]]]:
        """Those that are not left out, with their texts as `in_ids` has them; the last token is only ever a target.

        Raises DataError for one that is too long where that is an error, or without a target, for answers that are the
        same when truncated, and when no example is left.
        """
        length = self.context_length
        kept = []
        for example in examples:
            texts = self.fit(in_ids(example, tokenizer), example.origin, room_for(example, length))
            if texts is not None:
                kept.append((example, texts))
        if not kept:
            raise DataError(
                f"Every example is longer than a row of {length:,} tokens, so that none is left.",
                "Raise `context_length`, or use `overlong=truncate`.",
            )
        for example, texts in kept:
            if not isinstance(example, LabeledText) and not all(any(text.loss_mask) for text in texts):
                raise DataError(
                    f"{example.origin}: what stands before the answer fills the row of {length:,} tokens, so that "
                    "nothing of it is left to learn.",
                    "Shorten that, raise `context_length`, or leave out what is too long: `overlong=skip`.",
                )
            if len(texts) == 2 and texts[0].ids == texts[1].ids:
                raise DataError(
                    f"{example.origin}: both answers are the same within a row of {length:,} tokens.",
                    "Remove that line, or leave out what is too long: `overlong=skip`.",
                )
        return kept


def in_ids(example: Example, tokenizer: Tokenizer) -> list[EncodedChat]:
    """The texts of one example, whatever their length: one, or both answers of a pair, each after its prompt.

    Raises DataError for a conversation without a target.
    """
    if isinstance(example, Conversation):
        text = encode_conversation(tokenizer, example.messages)
        if not any(text.loss_mask):
            raise DataError(
                f'{example.origin}: no token is learned, since every answer has "weight": 0.',
                "Give one the weight 1, or remove that line.",
            )
        return [text]
    if isinstance(example, LabeledText):
        ids = tokenizer.encode(example.text)
        return [EncodedChat(ids, [False] * len(ids))]
    if isinstance(example.prompt, str):
        prompt = tokenizer.encode(example.prompt)
    else:
        prompt = encode_generation_prompt(tokenizer, example.prompt)
    answers = ([*tokenizer.encode(answer), tokenizer.eos_token_id] for answer in (example.chosen, example.rejected))
    return [EncodedChat(prompt + ids, [False] * len(prompt) + [True] * len(ids)) for ids in answers]


def room_for(example: Example, context_length: int) -> int:
    """Tokens that a text may have: where the next token is learned, the last one is only ever a target."""
    return context_length if isinstance(example, LabeledText) else context_length + 1
