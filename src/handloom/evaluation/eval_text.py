"""A text in the form in which a perplexity convention reads it, and its size in every unit. Streams; knows no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from handloom.data.chunking import PIECE, chunk_text
from handloom.data.corpus import Corpus
from handloom.evaluation.detokenize import FORMS, detokenize, retokenize
from handloom.settings import Settings, setting
from handloom.tokenizer.base import Tokenizer

_LONGEST_LINE = 1 << 20  # characters


@dataclass(frozen=True)
class PerplexityConvention(Settings):
    """How a text is read. Raises ConfigError for a setting outside its limits."""

    documents: str = setting(
        "alone", "Each document by itself, or joined one behind the other.", choices=("alone", "joined")
    )
    without_end_of_text: bool = setting(
        False, "Put no end of text before the documents; their first tokens then do not count."
    )
    detokenize: str = setting(
        "none", "The benchmark that the text is; it is also read as ordinary text.", choices=("none", *FORMS)
    )
    context_length: int | None = setting(None, "Tokens read at once; None: all that the model can.", at_least=1)
    stride: tuple[int, ...] = setting(
        (), "New tokens in each window; default: the context, and 512 or half a smaller context."
    )
    limit: int | None = setting(None, "Only the first so many documents, or items; None: all.", at_least=1)
    batch_size: int = setting(8, "Windows or items computed together.", at_least=1)


@dataclass(frozen=True)
class Counts:
    """A text's size in every unit, without what nothing predicts: its first token, if no end of text precedes it."""

    documents: int = 0
    tokens: int = 0
    words: int = 0
    """Between white space."""
    lines: int = 0
    characters: int = 0
    bytes: int = 0
    """Of UTF-8."""
    lines_lost: int = 0
    """Lines that cannot be recovered from the form in which they are read."""


@dataclass(frozen=True)
class EvalText:
    """A corpus in the form in which it is read; `ordinary`: as ordinary text, detokenized."""

    tokenizer: Tokenizer
    corpus: Corpus
    convention: PerplexityConvention
    ordinary: bool

    def documents(self) -> Iterator[Iterable[str]]:
        """The pieces of each document, as in the file, cut where that does not change its tokens.

        With `documents=alone`, a page of WikiText is a document.
        """
        return islice(self._documents(), self.convention.limit)

    def _documents(self) -> Iterator[Iterable[str]]:
        for document in self.corpus.documents():
            if self.convention.detokenize == "none":
                yield chunk_text(document.pieces(), PIECE)
            elif self.convention.detokenize == "wikitext" and self.convention.documents == "alone":
                yield from _pages(_lines(document.pieces()))
            else:
                yield _lines(document.pieces())

    def form(self, piece: str) -> str:
        """A piece as it is read."""
        return detokenize(FORMS[self.convention.detokenize], piece) if self.ordinary else piece

    def ids(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The tokens of a document's pieces."""
        return map(self.tokenizer.encode, chunk_text(map(self.form, pieces), PIECE))

    def count(self) -> Counts:
        """The text in every unit; words, lines, characters and bytes are those of the form in which it is read."""
        counts: Counter[str] = Counter()
        how = self.convention

        def read(piece: str) -> str:
            found = self.form(piece)
            if self.ordinary:
                counts["lines_lost"] += retokenize(FORMS[how.detokenize], found) != piece
            return found

        unpredicted = how.without_end_of_text  # whether nothing predicts the next token
        for pieces in self.documents():
            if how.documents == "alone":
                unpredicted = how.without_end_of_text
            ended = True
            for piece in chunk_text(map(read, pieces), PIECE):
                ids = self.tokenizer.encode(piece)
                size = {"words": len(piece.split()), "characters": len(piece), "bytes": len(piece.encode("utf-8"))}
                counts.update(size, tokens=len(ids), lines=piece.count("\n"))
                ended = piece.endswith("\n")
                if unpredicted and ids:
                    first = self.tokenizer.token_bytes(ids[0])
                    letters = len(first.decode("utf-8", "ignore"))
                    counts.subtract(
                        {"tokens": 1, "words": bool(first.strip()), "characters": letters, "bytes": len(first)}
                    )
                    unpredicted = False
            counts.update(documents=1, lines=not ended)
        return Counts(**counts)


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Whole lines, one at a time, of any chunks."""
    held = ""
    for chunk in chunks:
        *whole, held = (held + chunk).split("\n")
        for line in whole:
            yield line + "\n"
        if len(held) > _LONGEST_LINE:  # then a space in it has to do
            cut = held.rfind(" ") if " " in held[1:] else len(held)
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _pages(lines: Iterable[str]) -> Iterator[Iterable[str]]:
    """WikiText's articles: each begins with a heading of the first level."""
    number = 0

    def page(line: str) -> int:
        nonlocal number
        number += line.startswith(" = ") and not line.startswith(" = = ") and line.endswith(" = \n")
        return number

    return (group for _, group in groupby(lines, key=page))
