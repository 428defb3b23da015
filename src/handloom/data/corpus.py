"""Which documents there are: files, folders, globs, standard input and the built-in corpora.

A text file is one document, or several with a separator between them; a line of JSON Lines is one, and
so is a module or topic of a built-in corpus. Documents stream, so a file may be
larger than memory. Knows no tokens and no split.
"""

from __future__ import annotations

import shutil
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from handloom.data.builtin import BUILTIN
from handloom.data.omissions import Omissions
from handloom.data.readers import check_encoding_errors, read_jsonl, read_text
from handloom.data.separator import check_separator, split_documents
from handloom.data.sources import files_of, has_suffix
from handloom.errors import DataError, require_type
from handloom.temporary import TemporaryFolder
from handloom.tokenizer.base import END_OF_TEXT


@dataclass(frozen=True)
class Document:
    """One text. `pieces()` streams it from the beginning each time; `name` is for people."""

    name: str
    pieces: Callable[[], Iterable[str]]
    path: Path | None = None
    """The text file that it begins."""
    part: int = 1
    """Which of the documents separated within its file."""
    line: int = 1
    """The line that it begins in, of a text file."""

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
        """Every document, empty ones and duplicates too, in the order of the sources.

        Raises:
            DataError: a file that cannot be read as text, when its turn comes.
        """
        for origin in self._origins:
            yield from origin()


def open_corpus(
    sources: Sequence[str | Path] | str | Path,
    *,
    text_field: str = "text",
    encoding_errors: str = "strict",
    document_separator: str = END_OF_TEXT,
) -> Corpus:
    """Find the documents that `sources` name; their text is read later, while walking.

    Args:
        sources: each a file, a folder, a glob (see `sources.files_of`), `-` (standard input, read to its end
            now), or the name of a built-in corpus. A file in the current folder that is called like a built-in
            corpus is reached by `./NAME`.
        text_field: the field of a JSON Lines object that holds the text.
        encoding_errors: "strict" or "replace", for bytes that are not UTF-8 and for lone surrogates.
        document_separator: line between two documents of a text file; empty for none.
    Raises:
        DataError: a source that is missing, empty, or holds no text file.
        ConfigError: an unknown `encoding_errors`, or a separator of several lines or none.
    """
    check_encoding_errors(encoding_errors)
    check_separator(document_separator)
    require_type(sources, "The data", (str, Path, Iterable), "a path, or a list of them")
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    for source in given:
        require_type(source, "A source of data", (str, Path), "a str or a Path")
    if not given:
        raise DataError(
            "No data was named.", f"Name files, folders or a built-in corpus ({', '.join(BUILTIN)})."
        )
    names = [str(source) for source in given]
    spool = TemporaryFolder("stdin") if "-" in names else None
    origins: list[Callable[[], Iterable[Document]]] = []
    omissions = Omissions()
    try:
        for source in dict.fromkeys(names):
            if source in BUILTIN:
                origins.append(_builtin(source))
            elif source == "-" and spool is not None:
                path = _spool_stdin(Path(spool.name, "stdin"))
                read = partial(read_text, path, "standard input", encoding_errors)
                origins.append(partial(separated, read, "standard input", path, document_separator))
            else:
                for path in files_of(source, omissions=omissions):
                    origins.append(
                        partial(_file_documents, path, text_field, encoding_errors, document_separator)
                    )
    except BaseException:
        if spool is not None:
            spool.cleanup()
        raise
    corpus = Corpus(names, origins, omissions, document_separator)
    if spool is not None:
        weakref.finalize(corpus, spool.cleanup)
    return corpus


def _builtin(name: str) -> Callable[[], Iterable[Document]]:
    """Parsed on the first walk and kept: parsing the library takes seconds, its text a few MB."""

    @cache
    def documents() -> list[Document]:
        return [Document(f"{name}/{title}", partial(_one, text)) for title, text in BUILTIN[name]()]

    return documents


def separated(read: Callable[[], Iterable[str]], name: str, path: Path, separator: str) -> Iterator[Document]:
    """The documents of a text file that `read` gives the text of."""
    for part, (line, pieces) in enumerate(split_documents(read, separator), start=1):
        first = part == 1
        yield Document(name if first else f"{name}:{line}", pieces, path if first else None, part, line)


def _file_documents(path: Path, text_field: str, encoding_errors: str, separator: str) -> Iterator[Document]:
    name = path.as_posix()
    if not has_suffix(name, (".jsonl", ".jsonl.gz")):
        yield from separated(partial(read_text, path, name, encoding_errors), name, path, separator)
        return
    for line, text in read_jsonl(path, name, text_field, encoding_errors):
        yield Document(f"{name}:{line}", partial(_one, text))


def _one(text: str) -> tuple[str]:
    return (text,)


def _spool_stdin(path: Path) -> Path:
    """Standard input can be read once and we walk a corpus twice, so it is kept in a temporary file."""
    stream = getattr(sys.stdin, "buffer", None)
    try:
        with path.open("wb") as file:
            if stream is not None:
                shutil.copyfileobj(stream, file, 1 << 20)
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"Standard input could not be kept in {path.parent} ({error.strerror or error}).",
            "Free some space there, or point TMPDIR to a folder that has it.",
        ) from None
    if size == 0:
        raise DataError(
            "Standard input is empty.", "Pipe text into the command, or name a file instead of -."
        )
    return path
