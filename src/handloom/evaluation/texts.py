"""Texts to measure on: what a run was trained on and what it held out, reopened, and samples of documents.

A run names the tokens that it was trained on. Where the cache still has them they are decoded; else the run's text is
tokenized again. Knows no model.
"""

from __future__ import annotations

import hashlib
import heapq
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handloom.data.builtin import BUILTIN
from handloom.data.corpus import open_corpus
from handloom.data.examples import example_files
from handloom.data.record_files import read_records
from handloom.data.sources import unrepeatable
from handloom.data.split import TRAIN, VALIDATION
from handloom.data.text_io import ReadOptions
from handloom.data.tokenized import TokenData, open_cached, prepare
from handloom.data.windows import in_chunks
from handloom.errors import DataError
from handloom.evaluation.text_metrics import TrainingPiece
from handloom.tokenizer.base import Tokenizer

NamedText = tuple[str, Iterable[str]]
"""A document: its name, and its text in pieces."""
_TEXT_SETTINGS = (
    "text_field", "encoding_errors", "json_as_text", "document_separator", "validation_fraction", "split",
)  # fmt: skip


# The text of a run


class TrainingText:
    """The text of a run, from the training state in its checkpoint, of which anything may be missing.

    Raises DataError when the text is not recorded, cannot be read again, or has changed.
    """

    def __init__(self, training: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        settings = training.get("settings") or {}
        sources = tuple(map(str, settings.get("data") or ()))
        if not sources:
            raise DataError("Its run does not record what it was trained on.", "Name the text with `training`.")
        self.name = ", ".join(sources)
        self._tokenizer = tokenizer
        self._tokens: TokenData | None = None
        if settings.get("task", "text") == "text":
            how = {name: settings[name] for name in _TEXT_SETTINGS if name in settings}
            self._tokens = _tokens(str(training.get("data", "")), sources, tokenizer, how)
        else:
            self._example_files = [path for source in sources for path in example_files(source)]

    def pieces(self) -> Iterator[TrainingPiece]:
        """The text that it was trained on; of examples each text in them, held out or not, as a document."""
        if self._tokens is not None:
            return training_pieces(self._decoded(self._tokens, TRAIN))
        records = (record for path in self._example_files for record in read_records(path, ReadOptions()))
        texts = ((str(record.origin), text) for record in records for text in _texts(record.fields))
        return (TrainingPiece(origin, text, ends=True) for origin, text in texts)

    def held_out(self) -> Iterator[NamedText]:
        """The validation documents. Raises DataError for a run on examples, which are not text to continue."""
        if self._tokens is None:
            raise DataError(f"{self.name} contains examples, not text.", "Name held-out text with `data`.")
        documents = self._decoded(self._tokens, VALIDATION)
        return ((each[0], (piece.text for piece in training_pieces([each]))) for each in documents)

    def _decoded(self, data: TokenData, split: int) -> Iterator[NamedText]:
        shard = (data.train, data.validation)[split]
        in_bytes = [self._tokenizer.token_bytes(token) for token in range(self._tokenizer.vocab_size)]
        in_bytes[self._tokenizer.eos_token_id] = b""
        start = 0
        for name, end in zip(data.names(split), shard.ends.tolist(), strict=True):
            decoder = getincrementaldecoder("utf-8")("replace")
            parts = (b"".join(in_bytes[token] for token in ids.tolist()) for ids in in_chunks(shard.tokens[start:end]))
            yield name, map(decoder.decode, parts)
            start = end


def _tokens(key: str, sources: Sequence[str], tokenizer: Tokenizer, how: Mapping[str, Any]) -> TokenData:
    """The text with its documents under their present names; what is gone or has changed comes from the cache."""
    cached = open_cached(key, tokenizer) if key else None
    gone = unrepeatable(sources)
    if cached is not None and (gone or {*sources} <= {*BUILTIN}):  # whose documents have the same names always
        return cached
    if gone:
        problem = f"It was trained on {', '.join(gone)}, which cannot be read again."
        raise DataError(problem, "Name the text with `training`.")
    try:
        data = prepare(sources, tokenizer, **how)
        if key and data.key != key:
            raise DataError(
                f"The text {', '.join(sources)} has changed since it was trained on.",
                "Restore the text, or name another with `training`.",
            )
        return data
    except DataError:
        if cached is None:
            raise
        return cached


def training_pieces(documents: Iterable[NamedText]) -> Iterator[TrainingPiece]:
    """Documents in pieces that end before a space, so that none ends within a word."""
    for name, chunks in documents:
        held = ""
        for chunk in chunks:
            held += chunk
            cut = max(held.rfind(" "), held.rfind("\n"))
            if cut > 0:
                yield TrainingPiece(name, held[:cut], ends=False)
                held = held[cut:]
        yield TrainingPiece(name, held, ends=True)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


# Documents


def corpus_documents(sources: Sequence[str]) -> Iterator[NamedText]:
    """Those of files, folders, globs and built-in corpora; raises DataError as `open_corpus` does."""
    return ((each.name, each.pieces()) for each in open_corpus(sources).documents())


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
    """`sample_documents` of `corpus_documents`."""
    return sample_documents(", ".join(sources), corpus_documents(sources), limit)


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
