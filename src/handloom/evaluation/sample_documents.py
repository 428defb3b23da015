"""Samples documents of a corpus to measure on: the same ones every time, up to a size. Knows no model and no tokens."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from handloom.data.corpus import open_corpus
from handloom.errors import DataError

NamedText = tuple[str, Iterable[str]]
"""A document: its name, and its text in pieces."""


@dataclass(frozen=True)
class TextSample:
    """Documents to measure on."""

    source: str
    """Where they are from, for people."""
    documents: tuple[tuple[str, str], ...]
    """Name and text of each."""
    whole: bool
    """Whether they are all of the source."""

    @property
    def texts(self) -> list[str]:
        """The text of each document."""
        return [text for _, text in self.documents]

    @property
    def bytes(self) -> int:
        """Of UTF-8, in all documents together."""
        return sum(len(text.encode("utf-8")) for text in self.texts)


def sample_documents(source: str, documents: Iterable[NamedText], limit: int) -> TextSample:
    """Documents in the order of their text's SHA-256, lowest first, until `limit` bytes are reached.

    So the choice depends neither on names nor on order, and is spread over the whole source. `documents` are read once;
    copies are left out, and of a long document only its first `limit` bytes are read. The last one is cut, at the end
    of a line if one is near. Raises DataError when the source is empty.
    """
    kept: list[tuple[int, str, str, int]] = []  # a heap, the highest hash first
    total, seen, whole = 0, set(), True
    for name, pieces in documents:
        text, is_whole = _head(pieces, limit)
        raw = text.encode("utf-8")
        key = int.from_bytes(hashlib.sha256(raw).digest()[:16], "big")
        if not raw or key in seen:
            continue
        seen.add(key)
        whole = whole and is_whole
        heapq.heappush(kept, (-key, name, text, len(raw)))
        total += len(raw)
        while total - kept[0][3] >= limit:
            total -= heapq.heappop(kept)[3]
            whole = False
    if not kept:
        raise DataError(f"{source}: no text to measure on.", "Name a file that contains text.")
    chosen = [(name, text) for _, name, text, _ in sorted(kept, reverse=True)]
    if total > limit:
        name, text = chosen.pop()
        whole = False
        if rest := _cut(text, limit - (total - kept[0][3])):
            chosen.append((name, rest))
    return TextSample(source, tuple(chosen), whole)


def sample_files(sources: Sequence[str], limit: int) -> TextSample:
    """`sample_documents` of files, folders, globs and built-in corpora; raises DataError as `open_corpus` does."""
    documents = ((each.name, each.pieces()) for each in open_corpus(sources).documents())
    return sample_documents(", ".join(sources), documents, limit)


def _head(pieces: Iterable[str], limit: int) -> tuple[str, bool]:
    """The first `limit` bytes or a little more, and whether that is all."""
    head: list[str] = []
    size = 0
    for piece in pieces:
        if size > limit:
            return "".join(head), False
        head.append(piece)
        size += len(piece.encode("utf-8"))
    return "".join(head), True


def _cut(text: str, limit: int) -> str:
    """At most the first `limit` bytes, to the end of a line if there is one in their second half."""
    part = text.encode("utf-8")[:limit].decode("utf-8", "ignore")
    line = part.rfind("\n") + 1
    return part[:line] if line > len(part) // 2 else part
