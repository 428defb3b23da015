"""A record, whatever the form of its file, and the texts and messages in it. Every fault names its place.

What a record as a whole has to look like to be an example is `forms`' business. Knows no files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handloom.data.text_io import EmptyError, Origin, ReadOptions, form_of
from handloom.errors import DataError
from handloom.tokenizer.chat import NOTHING, Message, MessageParser
from handloom.values import kind_of


@dataclass(frozen=True)
class Record:
    """An object of named fields, and where it stands."""

    fields: dict[str, Any]
    origin: Origin
    options: ReadOptions
    omitted: list[tuple[str, str]] = field(default_factory=list, compare=False)
    """What of it is not learned: reasons of `omissions`, each with what it is counted by."""

    @classmethod
    def of(cls, value: Any, origin: Origin, options: ReadOptions) -> Record:
        """Raises DataError unless `value` is an object."""
        if isinstance(value, list):
            raise DataError(
                f"{origin}: a JSON list, not an object.",
                "Write one object a line; a file that is one list of objects needs a name that ends in .json.",
            )
        if not isinstance(value, dict):
            raise DataError(f"{origin}: {kind_of(value)}, not an object.", "Each record is a JSON object.")
        return cls(value, origin, options)

    def refuse(self, problem: str, remedy: str, error: type[DataError] = DataError) -> DataError:
        """The error to raise: what is wrong at this place, and what to do."""
        return error(f"{self.origin}: {problem}", remedy)

    def leave_out(self, field: str) -> None:
        """Count a field as left out."""
        self.omitted.append(("field", field.encode("utf-8", "backslashreplace").decode("utf-8")))

    def no_field(self, name: str, remedy: str, error: type[DataError] = DataError) -> DataError:
        """The error for a field that is not there."""
        there = ", ".join(sorted(map(str, self.fields))) or "none"
        return self.refuse(f'no field "{name}" (fields there: {there}).', remedy, error)

    def text(self, value: Any, what: str) -> str:
        """`value` as text, its line ends `\\n`; raises DataError unless it is one, and not blank."""
        if not isinstance(value, str):
            raise self.refuse(f"{what} is {kind_of(value)}, not a string.", "Mend or remove that record.")
        text = self.plain(value)
        if not text.strip():
            raise self.refuse(f"{what} is empty.", "Fill it in, or remove that record.", EmptyError)
        return text

    def optional(self, name: str) -> str:
        """The text in a field; empty where there is none: the field is missing, null, or a blank text."""
        value = self.fields.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return ""
        if not isinstance(value, str):
            problem = f'the field "{name}" is {kind_of(value)}, not a string.'
            raise self.refuse(problem, 'Write it as a text; null and "" mean that there is none.')
        return self.plain(value)

    def plain(self, text: str) -> str:
        """The text with `\\n` as line ends, and nothing that UTF-8 cannot hold."""
        return self.options.plain(text, self.origin)

    def messages(self, value: Any, what: str) -> tuple[Message, ...]:
        """`value` as messages; raises DataError unless it is one or a list of some.

        A message is `{"role", "content"}` or ShareGPT's `{"from", "value"}`.
        """
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            raise self.refuse(
                f"{what} is {kind_of(value)}, not a list.",
                'Write messages as [{"role": "user", "content": "..."}, ...].',
            )
        if not value:
            raise self.refuse(f"{what} is an empty list.", "Fill it in, or remove that record.", EmptyError)
        parser = MessageParser(self.refuse, self.text, lambda name: self.leave_out(f"{name} of messages"))
        return tuple(parser.parse(each, f"{what}[{number}]") for number, each in enumerate(value))


def text_of(record: Record) -> str:
    """The text of a record of running text; null is as good as an empty one.

    Raises:
        DataError: unless its text field is there and holds a string.
    """
    name = record.options.text_field
    if name not in record.fields:
        remedy = "Name the field that holds the text with --text-field."
        if form_of(Path(record.origin.file)) in ("json", "jsonl"):
            remedy = remedy[:-1] + "; to learn JSON as it stands, use --json-as-text."
        raise record.no_field(name, remedy)
    value = record.fields[name]
    if value is not None and not isinstance(value, str):
        raise record.refuse(
            f'field "{name}" is {kind_of(value)}, not a string.',
            "Name the field that holds the text with --text-field, or mend that record.",
        )
    for other, said in record.fields.items():
        if other != name and said not in NOTHING:
            record.leave_out(other)
    return record.plain(value or "")
