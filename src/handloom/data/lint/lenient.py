"""Reads what a run would read, but to its end: what cannot be read is told and passed over, not raised.

What is wrong with a text that can be read is `oddities`' business.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from handloom.data.builtin import BUILTIN
from handloom.data.corpus import Corpus, Document, open_corpus, separated
from handloom.data.examples import E, example_files, parse
from handloom.data.lint.findings import WARNING, Finding, Place
from handloom.data.omissions import Omissions
from handloom.data.readers import read_lines, read_raw, read_text, text_of
from handloom.data.records import EmptyError, NoAssistantError, NoLabelError, Origin
from handloom.data.sources import files_of, has_suffix
from handloom.errors import DataError

T = TypeVar("T")
Tell = Callable[[Finding], None]
_FAULTS: dict[type[DataError], str] = {
    EmptyError: "empty",
    NoLabelError: "no-label",
    NoAssistantError: "no-assistant",
}


@dataclass(frozen=True)
class Placed(Document):
    """A document that knows where it begins."""

    place: Place = field(default_factory=lambda: Place(""))
    is_line: bool = False
    """Whether it is one line of JSON Lines, and not all of a file."""


def lenient_corpus(
    sources: Sequence[str | Path], text_field: str, encoding_errors: str, document_separator: str, tell: Tell
) -> Corpus:
    """Every document that can be read, each a `Placed`; bytes that are not UTF-8 are read as U+FFFD.

    Args:
        sources, text_field, encoding_errors, document_separator: as `open_corpus` takes them.
        tell: told what cannot be read: missing files at once, all else with every walk.

    Raises:
        DataError: no source was named, or the only one cannot be opened.
    """
    names = list(dict.fromkeys(map(str, sources)))
    if not names:
        open_corpus(names)  # refuses
    origins: list[Callable[[], Iterable[Document]]] = []
    omissions = Omissions()
    for name in names:
        if name in BUILTIN or name == "-":
            alone = open_corpus([name], encoding_errors="replace", document_separator=document_separator)
            origins.append(partial(_placed, alone.documents))
            continue
        for path in _found(name, partial(files_of, omissions=omissions), tell, alone=len(names) == 1):
            origins.append(partial(_documents, path, text_field, encoding_errors, document_separator, tell))
    return Corpus(names, origins, omissions, document_separator)


def lenient_examples(
    kind: type[E], sources: Sequence[str | Path], encoding_errors: str, tell: Tell, omissions: Omissions
) -> Iterator[E]:
    """Every example that can be read.

    Args:
        kind, sources, encoding_errors: as `read_examples` takes them.
        tell: told what cannot be read, when its turn comes.
        omissions: told what is left out.

    Raises:
        DataError: no source was named, or the only one cannot be opened.
    """
    names = list(dict.fromkeys(map(str, sources)))
    if not names:
        raise DataError("No data was named.", "Name .jsonl files: --data FILE.")
    find = partial(example_files, omissions=omissions)
    found = (path for name in names for path in _found(name, find, tell, alone=len(names) == 1))
    for path in dict.fromkeys(found):
        for origin, line in _lines(path, tell):
            example = _tried(partial(parse, kind, line, origin), origin, encoding_errors, tell)
            if example is not None:
                yield example


def faults_of(path: Path, name: str, encoding_errors: str) -> Iterator[Finding]:
    """What is wrong with the bytes of a text file: lines that are not UTF-8, several kinds of line ends, a byte order
    mark. A file that cannot be read has no such faults."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, ends = 1, {"\\n": 0, "\\r\\n": 0, "\\r": 0}
    try:
        yield from _mark(path, name)
        for raw in read_raw(path, name):
            try:
                decoder.decode(raw)
            except UnicodeDecodeError as error:
                decoder.reset()
                detail = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
                down = error.object.count(b"\r", 0, error.start)
                yield _not_utf8(detail, Place(name, line + down), encoding_errors)
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


def _found(name: str, find: Callable[[str], list[Path]], tell: Tell, alone: bool) -> list[Path]:
    try:
        return find(name)
    except DataError as error:
        if alone:
            raise
        tell(_unreadable(error, name))
        return []


def _placed(documents: Callable[[], Iterable[Document]]) -> Iterator[Document]:
    for document in documents():
        yield Placed(**vars(document), place=Place(document.file, document.line))


def _documents(
    path: Path, text_field: str, encoding_errors: str, document_separator: str, tell: Tell
) -> Iterator[Document]:
    name = path.as_posix()
    if not has_suffix(name, (".jsonl", ".jsonl.gz")):
        read = partial(_text, path, name, tell)
        yield from _placed(partial(separated, read, name, path, document_separator))
        return
    for origin, line in _lines(path, tell):
        text = _tried(partial(text_of, line, str(origin), text_field), origin, encoding_errors, tell)
        if text is not None:
            yield Placed(
                f"{name}:{origin.line}", partial(_one, text), place=Place(name, origin.line), is_line=True
            )


def _one(text: str) -> tuple[str]:
    return (text,)


def _text(path: Path, name: str, tell: Tell) -> Iterator[str]:
    try:
        yield from read_text(path, name, "replace")
    except DataError as error:
        tell(_unreadable(error, name))


def _lines(path: Path, tell: Tell) -> Iterator[tuple[Origin, bytes]]:
    name = path.as_posix()
    try:
        for finding in _mark(path, name):
            tell(finding)
        for number, line in read_lines(path, name):
            yield Origin(name, number), line
    except DataError as error:
        tell(_unreadable(error, name))


def _mark(path: Path, name: str) -> Iterator[Finding]:
    if next(read_raw(path, name), b"").startswith(codecs.BOM_UTF8):
        yield Finding("bom", "at the beginning of the file", Place(name))


def _tried(read: Callable[[str], T], origin: Origin, encoding_errors: str, tell: Tell) -> T | None:
    """What a line holds, or None when it holds nothing of use, which is told.

    A line whose only fault is its encoding is told too, and read all the same.
    """
    place = Place(origin.file, origin.line)
    try:
        return read("strict")
    except DataError as error:
        strict = error
    try:
        found = read("replace")
    except DataError as error:
        kind = _FAULTS.get(type(error), "malformed")
        tell(Finding(kind, _without(str(origin), error), place, remedy=error.remedy))
        return None
    tell(_not_utf8(_without(str(origin), strict), place, encoding_errors))
    return found


def _not_utf8(detail: str, place: Place, encoding_errors: str) -> Finding:
    if encoding_errors == "strict":
        return Finding("encoding", detail, place)
    return Finding("encoding", detail, place, severity=WARNING, remedy="Convert the text to UTF-8.")


def _unreadable(error: DataError, name: str) -> Finding:
    return Finding("unreadable", _without(name, error), Place(name), remedy=error.remedy)


def _without(origin: str, error: DataError) -> str:
    """The problem without its place, which a finding has beside it."""
    return error.problem.removeprefix(f"{origin}: ").rstrip(".")
