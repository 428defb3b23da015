"""The documents of a corpus: files, folders, globs, standard input and the built-in corpora.

A text file is one document, or several with a separator between them; a record of another file is one, and so is a
module or topic of a built-in corpus. Documents stream, so a file may be larger than memory. Knows no tokens and no
split.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from handloom.data.builtin import BUILTIN
from handloom.data.chunking import split_documents
from handloom.data.omissions import Omissions
from handloom.data.record_files import read_as
from handloom.data.schema import Record, text_of
from handloom.data.sources import files_of, find_files, is_pipe
from handloom.data.text_io import RECORD_SUFFIXES, TEXT_FIELD, Origin, ReadOptions, form_of, read_text
from handloom.errors import DataError, require_type
from handloom.locks import TemporaryFolder
from handloom.runtime import expanded
from handloom.tokenizer.base import END_OF_TEXT


@dataclass(frozen=True)
class Document:
    """One text. `pieces()` streams it from the beginning each time; `name` is for people."""

    name: str
    pieces: Callable[[], Iterable[str]]
    path: Path | None = None  # the text file that it begins
    part: int = 1  # which of the documents separated within its file
    line: int = 1  # where it begins in its text file
    origin: Origin | None = None  # the record, where it is one
    omitted: Sequence[tuple[str, str]] = ()  # what of the record is left out, see `Record`

    @property
    def file(self) -> str:
        """The name of its file, if that is a text file."""
        return self.name if self.part == 1 else self.name.rpartition(":")[0]

    def text(self) -> str:
        """The whole text, in memory."""
        return "".join(self.pieces())


class Corpus:
    """Documents in a fixed order, to be walked as often as needed; and what was left out in finding them."""

    def __init__(
        self,
        sources: Sequence[str],
        origins: Sequence[Callable[[], Iterable[Document]]],
        omissions: Omissions | None = None,
        document_separator: str = END_OF_TEXT,
    ) -> None:
        self.sources, self.document_separator = tuple(sources), document_separator
        self.omissions = Omissions() if omissions is None else omissions
        self._origins = tuple(origins)

    def documents(self) -> Iterator[Document]:
        """Every document, empty ones and duplicates too, in order; DataError when one cannot be read as text."""
        for origin in self._origins:
            yield from origin()


def open_corpus(
    sources: Sequence[str | Path] | str | Path, options: ReadOptions | None = None, **settings: Any
) -> Corpus:
    """Find the documents that `sources` name; their text is read later, while walking.

    Each source is a file, a folder, a glob (see `sources.files_of`), `-` (standard input; it and other pipes are read
    to their end now), or the name of a built-in corpus; a file of that name is reached by `./NAME`. `settings` are
    those of `ReadOptions`, unless its `options` are given; a source that is missing goes to their `on_error`, unless it
    is the only one.

    Raises DataError for a source that is missing, empty, or holds no text file, and for a `text_field` where there are
    no records; ConfigError as `ReadOptions`.
    """
    options = ReadOptions(**settings) if options is None else options
    require_type(sources, "The data", (str, Path, Iterable), "a path, or a list of them")
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    for source in given:
        require_type(source, "A source of data", (str, Path), "a str or a Path")
    if not given:
        raise DataError("No data was named.", f"Name files, folders or a built-in corpus ({', '.join(BUILTIN)}).")
    names = list(dict.fromkeys(map(str, given)))
    omissions, has_records = Omissions(), False
    origins: list[Callable[[], Iterable[Document]]] = []
    with ExitStack() as on_failure:
        spool: TemporaryFolder | None = None
        for number, source in enumerate(names):
            if source in BUILTIN:
                origins.append(_builtin(source))
            elif source == "-" or is_pipe(source):
                if spool is None:
                    spool = TemporaryFolder("stdin")
                    on_failure.callback(spool.cleanup)
                path, name = Path(spool.name, str(number)), "standard input" if source == "-" else source
                _spool(source, name, path)
                origins.append(partial(_separated, path, name, options))
            else:
                for path in find_files(partial(files_of, omissions=omissions), source, options, len(names) == 1):
                    is_text = form_of(path, options) == "text"
                    has_records = has_records or not is_text
                    read = partial(_separated, path, path.as_posix()) if is_text else partial(read_as, _document, path)
                    origins.append(partial(read, options))
        if options.text_field != TEXT_FIELD and not has_records:
            raise DataError(
                f'text_field is "{options.text_field}", but none of {", ".join(names)} has records.',
                f"Leave it out; it is for files that end in {', '.join(RECORD_SUFFIXES)}.",
                setting="text_field",
            )
        on_failure.pop_all()
    corpus = Corpus(names, origins, omissions, options.document_separator)
    if spool is not None:
        weakref.finalize(corpus, spool.cleanup)
    return corpus


def _builtin(name: str) -> Callable[[], Iterable[Document]]:
    """Parsed on the first walk and kept: parsing the library takes seconds, its text a few MB."""

    @cache
    def documents() -> list[Document]:
        return [Document(f"{name}/{title}", partial(tuple, (text,))) for title, text in BUILTIN[name]()]

    return documents


def _separated(path: Path, name: str, options: ReadOptions) -> Iterator[Document]:
    """The documents of a text file; none of one that cannot be read, whose error went to `on_error`."""
    unread: list[DataError] = []

    def read() -> Iterator[str]:
        try:
            yield from read_text(path, name, options)
        except DataError as error:
            unread.append(error)
            options.report(error, Origin(name))

    for part, (line, pieces) in enumerate(split_documents(read, options.document_separator), start=1):
        if pieces is tuple and unread:
            return
        first = part == 1
        yield Document(name if first else f"{name}:{line}", pieces, path if first else None, part=part, line=line)


def _document(record: Record) -> Document:
    origin, text = record.origin, text_of(record)
    return Document(origin.short, partial(tuple, (text,)), origin=origin, omitted=record.omitted)


def _spool(source: str, name: str, path: Path) -> None:
    """Keep a pipe in a temporary file, since it can be read once and a corpus is walked twice."""
    shown = name[0].upper() + name[1:] if source == "-" else name
    with ExitStack() as stack:
        try:
            stream = getattr(sys.stdin, "buffer", None)
            if source != "-":
                stream = stack.enter_context(open(expanded(source, "the data"), "rb"))
                if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode) and not stream.isatty():
                    raise DataError(f"{name}: a device, not text.", "Name a file, a folder or a pipe.")
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror}).", "Name a file, a folder or a pipe.") from None
        try:
            with path.open("wb") as file:
                if stream is not None:
                    shutil.copyfileobj(stream, file, 1 << 20)
        except OSError as error:
            raise DataError(
                f"{shown} could not be kept in {path.parent} ({error.strerror or error}).",
                "Free some space there, or point TMPDIR to a folder that has it.",
            ) from None
    if path.stat().st_size == 0:
        raise DataError(f"{shown} is empty.", "Pipe text into the command, or name a file instead.")
