"""A text in the form in which a convention has it read, and its size in every unit. Streams; asks no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Literal

from handloom.data.chunking import PIECE, chunk_text
from handloom.data.corpus import Corpus
from handloom.evaluation.detokenize import FORMS, detokenize, retokenize
from handloom.tokenizer.base import Tokenizer

_LONGEST_LINE = 1 << 20  # characters


@dataclass(frozen=True)
class PerplexityConvention:
    """How a text is read, apart from the strides."""

    documents: Literal["alone", "joined"] = "alone"
    """Each document from its own beginning, or one behind the other."""
    begin: bool = True
    """An end of text stands before each document. It is read, and never counted."""
    detokenize: Literal["none", "wikitext", "ptb", "lambada"] = "none"
    """The benchmark that the text is, to be made ordinary text."""
    context_length: int | None = None
    """Tokens read at once; all that the model can if not given."""
    strides: tuple[int, ...] = ()
    """New tokens in each window; the context, and 512 or half a smaller context, if not given."""
    limit: int | None = None
    """How many documents to read; all if not given."""
    batch_size: int = 8
    """Windows read together; has no influence on the result beyond rounding."""


@dataclass(frozen=True)
class Counts:
    """A text's size in every unit, less what nothing predicts: without an end of text before it, its first token."""

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
    """A corpus in the form in which it is read."""

    tokenizer: Tokenizer
    corpus: Corpus
    convention: PerplexityConvention
    ordinary: bool

    def documents(self) -> Iterator[Iterable[str]]:
        """Pieces of each document in turn, cut where tokenization cannot tell, as in the file.

        A page of WikiText is a document where documents stand alone.
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
        for piece in chunk_text(map(self.form, pieces), PIECE):
            yield self.tokenizer.encode(piece)


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Whole lines, one at a time, of whatever chunks."""
    held = ""
    for chunk in chunks:
        *whole, held = (held + chunk).split("\n")
        for line in whole:
            yield line + "\n"
        if len(held) > _LONGEST_LINE:  # then some place in it has to do
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

    for _, group in groupby(lines, key=page):
        yield group


def count(text: EvalText) -> Counts:
    """The text in every unit; words, lines, characters and bytes are those of the form in which it is read."""
    found = dict.fromkeys(Counts.__dataclass_fields__, 0)
    unread = not text.convention.begin  # whether the next token is one that nothing predicts
    for pieces in text.documents():
        found["documents"] += 1
        unread = unread or (text.convention.documents == "alone" and not text.convention.begin)
        ended = True
        original = (_noted(piece, text, found) for piece in pieces)
        for piece in chunk_text(original, PIECE):
            ids = text.tokenizer.encode(piece)
            found["tokens"] += len(ids)
            found["words"] += len(piece.split())
            found["lines"] += piece.count("\n")
            found["characters"] += len(piece)
            found["bytes"] += len(piece.encode("utf-8"))
            ended = piece.endswith("\n")
            if unread and ids:
                first = text.tokenizer.token_bytes(ids[0])
                found["tokens"] -= 1
                found["words"] -= bool(first.strip())
                found["characters"] -= len(first.decode("utf-8", "ignore"))
                found["bytes"] -= len(first)
                unread = False
        found["lines"] += not ended
    return Counts(**found)


def _noted(piece: str, text: EvalText, found: dict[str, int]) -> str:
    """A piece as it is read, after it was noted whether it could be had back."""
    read = text.form(piece)
    if text.ordinary:
        found["lines_lost"] += retokenize(FORMS[text.convention.detokenize], read) != piece
    return read
