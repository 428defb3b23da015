"""Reads what a run would read, but to its end: what cannot be read becomes a finding, and is passed over.

What is wrong with a text that can be read is `oddities`' business.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

from handloom.data.lint.base import LintSettings
from handloom.data.lint.rules import WARNING, Finding, Place
from handloom.data.text_io import (
    EmptyError,
    EncodingError,
    NoAssistantError,
    NoLabelError,
    Origin,
    ReadOptions,
    UnreadableError,
    form_of,
    read_raw,
)
from handloom.errors import DataError

_KINDS: dict[type[DataError], str] = {
    UnreadableError: "unreadable",
    EmptyError: "empty",
    NoLabelError: "no-label",
    NoAssistantError: "no-assistant",
}


def tolerant_records(settings: LintSettings, tell: Callable[[Finding], None]) -> ReadOptions:
    """The options of a run, with which reading goes on behind a fault, and tells it."""

    def on_error(error: DataError, origin: Origin) -> None:
        place, detail = where(origin), error.problem.removeprefix(f"{origin}: ").rstrip(".")
        if not isinstance(error, EncodingError):
            tell(Finding(_KINDS.get(type(error), "malformed"), detail, place, remedy=error.remedy))
        elif origin.line or form_of(Path(origin.file)) != "text":  # of a text `faults_of` knows each line
            tell(_encoding(detail, place, settings.encoding_errors))

    return ReadOptions(settings.text_field, "strict", settings.json_as_text, settings.document_separator, on_error)


def where(origin: Origin) -> Place:
    """The same place, for a finding."""
    return Place(origin.file, origin.line or None, origin.column or None)


def faults_of(path: Path, name: str, encoding_errors: str) -> Iterator[Finding]:
    """What is wrong with the bytes of a text file: lines that are not UTF-8, several kinds of line ends, a byte order
    mark. A file that cannot be read has no such faults."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, ends = 1, {"\\n": 0, "\\r\\n": 0, "\\r": 0}
    try:
        for raw in read_raw(path, name):
            try:
                decoder.decode(raw)
            except UnicodeDecodeError as error:
                decoder.reset()
                detail = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
                down = error.object.count(b"\r", 0, error.start)
                yield _encoding(detail, Place(name, line + down), encoding_errors)
            both = raw.endswith(b"\r\n")
            ends["\\r\\n"] += both
            ends["\\n"] += raw.endswith(b"\n") and not both
            ends["\\r"] += raw.count(b"\r") - both
            line += raw.endswith(b"\n") + raw.count(b"\r") - both
    except DataError:
        return
    there = [f"{number:,} of {end}" for end, number in ends.items() if number]
    if len(there) > 1:
        yield Finding("line-ends", ", ".join(there), Place(name))


class Marks:
    """Says of each file once whether it begins with a byte order mark."""

    def __init__(self) -> None:
        self._files: set[str] = set()

    def of(self, path: Path, name: str) -> Iterator[Finding]:
        """A finding, if there is one and it was not said."""
        if name not in self._files:
            self._files.add(name)
            if next(read_raw(path, name), b"").startswith(codecs.BOM_UTF8):
                yield Finding("bom", "at the beginning of the file", Place(name))


def _encoding(detail: str, place: Place, encoding_errors: str) -> Finding:
    if encoding_errors == "strict":
        return Finding("encoding", detail, place)
    return Finding("encoding", detail, place, severity=WARNING, remedy="Convert the text to UTF-8.")
