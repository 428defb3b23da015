"""Which documents there are: files, folders, globs, standard input and the built-in corpora.

A text file is one document, a line of JSON Lines is one, a module or topic of a built-in corpus is
one. Documents stream, so a file may be larger than memory. Knows no tokens and no split.
"""

from __future__ import annotations

import difflib
import glob
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from handloom.data.builtin import BUILTIN
from handloom.data.readers import check_encoding_errors, read_jsonl, read_text
from handloom.errors import DataError
from handloom.runtime import expanded

SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class Document:
    """One text. `pieces()` streams it from the beginning each time; `name` is for people."""

    name: str
    pieces: Callable[[], Iterable[str]]
    path: Path | None = None
    """The file, where the document is all of it."""

    def text(self) -> str:
        """The whole text, in memory."""
        return "".join(self.pieces())


class Corpus:
    """Documents in a fixed order, to be walked as often as needed."""

    def __init__(self, sources: Sequence[str], origins: Sequence[Callable[[], Iterable[Document]]]) -> None:
        self.sources = tuple(sources)
        self._origins = tuple(origins)

    def documents(self) -> Iterator[Document]:
        """Every document, empty ones and duplicates too, in the order of the sources.

        Raises:
            DataError: a file that cannot be read as text, when its turn comes.
        """
        for origin in self._origins:
            yield from origin()


def open_corpus(
    sources: Sequence[str | Path] | str | Path, *, text_field: str = "text", encoding_errors: str = "strict"
) -> Corpus:
    """Find the documents that `sources` name; their text is read later, while walking.

    Args:
        sources: each a file, a folder (walked recursively, in sorted order, hidden ones left out), a
            glob, `-` (standard input, read to its end now), or the name of a built-in corpus.
            A file in the current folder that is called like a built-in corpus is reached by `./NAME`.
        text_field: the field of a JSON Lines object that holds the text.
        encoding_errors: "strict" or "replace", for bytes that are not UTF-8 and for lone surrogates.
    Raises:
        DataError: a source that is missing, empty, or holds no text file.
        ConfigError: an unknown `encoding_errors`.
    """
    check_encoding_errors(encoding_errors)
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if not given:
        raise DataError(
            "No data was named.", f"Name files, folders or a built-in corpus ({', '.join(BUILTIN)})."
        )
    names = [str(source) for source in given]
    spool = Path(tempfile.mkdtemp(prefix="handloom-stdin-")) if "-" in names else None
    origins: list[Callable[[], Iterable[Document]]] = []
    try:
        for source in dict.fromkeys(names):
            if source in BUILTIN:
                origins.append(_builtin(source))
            elif source == "-" and spool is not None:
                path = _spool_stdin(spool / "stdin")
                origins.append(partial(_text_document, path, "standard input", encoding_errors))
            else:
                for path in files_of(source):
                    origins.append(partial(_file_documents, path, text_field, encoding_errors))
    except BaseException:
        if spool is not None:
            shutil.rmtree(spool, ignore_errors=True)
        raise
    corpus = Corpus(names, origins)
    if spool is not None:
        weakref.finalize(corpus, shutil.rmtree, spool, ignore_errors=True)
    return corpus


def _builtin(name: str) -> Callable[[], Iterable[Document]]:
    """Parsed on the first walk and kept: parsing the library takes seconds, its text a few MB."""

    @cache
    def documents() -> list[Document]:
        return [Document(f"{name}/{title}", partial(_one, text)) for title, text in BUILTIN[name]()]

    return documents


def _text_document(path: Path, name: str, encoding_errors: str) -> Iterator[Document]:
    yield Document(name, partial(read_text, path, name, encoding_errors), path)


def _file_documents(path: Path, text_field: str, encoding_errors: str) -> Iterator[Document]:
    name = path.as_posix()
    if not name.endswith((".jsonl", ".jsonl.gz")):
        yield from _text_document(path, name, encoding_errors)
        return
    for line, text in read_jsonl(path, name, text_field, encoding_errors):
        yield Document(f"{name}:{line}", partial(_one, text))


def _one(text: str) -> tuple[str]:
    return (text,)


def files_of(source: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The files that a name stands for.

    Args:
        source: a file, whatever its suffix; a folder (walked recursively, in sorted order, hidden ones left
            out); or a glob.
        suffixes: what files in a folder have to end in.
    Raises:
        DataError: what is missing or empty, or a folder without such a file.
    """
    source = expanded(source, "the data")
    path = Path(source)
    if path.is_dir():
        return _files_below(path, suffixes)
    if path.exists():
        _refuse_empty(path)
        return [path]
    if glob.has_magic(source):
        return _files_matching(source, suffixes)
    raise DataError(f"{source}: no such file or folder.", _remedy_for_missing(path))


def _files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename}: cannot be listed ({error.strerror}).",
            "Check your permission to read that folder.",
        )

    found = []
    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        found += [
            Path(where, name)
            for name in sorted(files)
            if not name.startswith(".") and name.endswith(suffixes)
        ]
    if not found:
        kind = "text file" if suffixes == SUFFIXES else "such file"
        raise DataError(
            f"{folder.as_posix()}: the folder holds no {kind} ({', '.join(suffixes)}).",
            'Name a folder that does, or name the files themselves, for example with "FOLDER/*.rst".',
        )
    return sorted(found, key=lambda path: path.parts)


def _files_matching(pattern: str, suffixes: tuple[str, ...]) -> list[Path]:
    matches = sorted(glob.glob(pattern, recursive=True))
    found = [path for path in map(Path, matches) if path.is_file()]
    for path in map(Path, matches):
        if path.is_dir() and "**" not in pattern:
            found += _files_below(path, suffixes)
    if not found:
        raise DataError(
            f"{pattern}: no file matches.", "Check the pattern with ls; ** matches folders at every depth."
        )
    return found


def _refuse_empty(path: Path) -> None:
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path.as_posix()}: the file is empty.", "Name a file that holds text.")


def _remedy_for_missing(path: Path) -> str:
    folder = path.parent
    try:
        around = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    except OSError:
        around = []
    near = difflib.get_close_matches(path.name, [*around, *BUILTIN], n=1)
    if near:
        return f'Did you mean "{near[0] if near[0] in BUILTIN else (folder / near[0]).as_posix()}"?'
    return f"Check the path, or name a built-in corpus ({', '.join(BUILTIN)})."


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
