"""What a run has learned from: its training text and the text it held out, read again.

A run names the prepared tokens that it was trained on. Where the cache still has them they are turned back into
text; else the run's text is prepared anew. Knows no model.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from handloom.data.builtin import BUILTIN
from handloom.data.corpus import open_corpus
from handloom.data.examples import example_files
from handloom.data.record_files import read_records
from handloom.data.shards import Shard
from handloom.data.sources import unrepeatable
from handloom.data.split import TRAIN, VALIDATION
from handloom.data.text_io import ReadOptions
from handloom.data.tokenized import TokenData, open_cached, prepare
from handloom.errors import DataError
from handloom.evaluation.memorization import Piece
from handloom.evaluation.sample_documents import Named
from handloom.tokenizer.base import Tokenizer

_AT_ONCE = 1 << 16  # tokens that become text together


class TrainingText:
    """The text of a run.

    Args:
        training: what the run's checkpoint says of its training; anything may be missing.
        tokenizer: the run's.

    Raises:
        DataError: when the text is not named, cannot be read again, or is not what it was.
    """

    def __init__(self, training: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        settings = training.get("settings") or {}
        self.sources = tuple(settings.get("data") or ())
        """As the run's settings name them."""
        if not self.sources:
            raise DataError("It does not say what it learned from.", "Name the text with --training.")
        self._tokenizer = tokenizer
        self._examples: list[Path] = []
        self._tokens: TokenData | None = None
        if settings.get("task", "text") == "text":
            self._tokens = _prepared(training, settings, tokenizer)
        else:
            self._examples = [path for source in self.sources for path in example_files(source)]

    @property
    def named(self) -> str:
        """The sources, for people."""
        return ", ".join(self.sources)

    def pieces(self) -> Iterator[Piece]:
        """The text that it was trained on; of examples every text in them, held out or not."""
        if self._tokens is not None:
            return _text_of(self._tokens, TRAIN, self._tokenizer)
        return (piece for path in self._examples for piece in _strings_of(path))

    def held_out(self) -> Iterator[Named]:
        """The documents that it was not trained on.

        Raises:
            DataError: for a run that learned from examples, which are not text to go on from.
        """
        if self._tokens is None:
            raise DataError(f"{self.named} holds examples, not text.", "Name held-out text with --data.")
        return _documents(_text_of(self._tokens, VALIDATION, self._tokenizer))


def _prepared(training: Mapping[str, Any], settings: Mapping[str, Any], tokenizer: Tokenizer) -> TokenData:
    """The text with its documents called as they are now; what was lost or has changed comes from the cache."""
    key = str(training.get("data", ""))
    found = open_cached(key, tokenizer) if key else None
    sources = [str(source) for source in settings["data"]]
    if found is not None and (unrepeatable(sources) or {*sources} <= {*BUILTIN}):  # called the same at all times
        return found
    try:
        return _prepared_again(key, settings, tokenizer)
    except DataError:
        if found is None:
            raise
        return found


def _prepared_again(key: str, settings: Mapping[str, Any], tokenizer: Tokenizer) -> TokenData:
    sources = [str(source) for source in settings["data"]]
    if gone := unrepeatable(sources):
        raise DataError(
            f"It learned from {', '.join(gone)}, which cannot be read again.", "Name the text with --training."
        )
    how = (*("text_field", "encoding_errors", "json_as_text", "document_separator"), *("validation_fraction", "split"))
    data = prepare(sources, tokenizer, **{name: settings[name] for name in how if name in settings})
    if key and data.key != key:
        raise DataError(
            f"{', '.join(sources)} is not the text any more that it learned from.",
            "Put it back as it was, or name the text with --training.",
        )
    return data


def _text_of(data: TokenData, side: int, tokenizer: Tokenizer) -> Iterator[Piece]:
    """The documents of one side."""
    shard = (data.train, data.validation)[side]
    known = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    known[tokenizer.eos_token_id] = b""
    start = 0
    for name, end in zip(data.names(side), shard.ends.tolist(), strict=True):
        yield from _pieces(name, _decoded(shard, start, end, known))
        start = end


def _decoded(shard: Shard, start: int, end: int, known: list[bytes]) -> Iterator[str]:
    decoder = getincrementaldecoder("utf-8")("replace")
    for at in range(start, end, _AT_ONCE):
        tokens = shard.tokens[at : min(at + _AT_ONCE, end)].tolist()
        yield decoder.decode(b"".join([known[token] for token in tokens]))


def _pieces(name: str, chunks: Iterable[str]) -> Iterator[Piece]:
    """A document in pieces that end before a space, so that none ends within a word."""
    held = ""
    for chunk in chunks:
        held += chunk
        cut = max(held.rfind(" "), held.rfind("\n"))
        if cut > 0:
            yield Piece(name, held[:cut], ends=False)
            held = held[cut:]
    yield Piece(name, held, ends=True)


def _documents(pieces: Iterator[Piece]) -> Iterator[Named]:
    texts: list[str] = []
    for piece in pieces:
        texts.append(piece.text)
        if piece.ends:
            yield piece.document, texts
            texts = []


def _strings_of(path: Path) -> Iterator[Piece]:
    """Every text in a file of records, each a document of its own."""
    for record in read_records(path, ReadOptions()):
        for text in _strings(record.fields):
            yield Piece(str(record.origin), text, ends=True)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def training_files(sources: list[str]) -> Iterator[Piece]:
    """Files, folders, globs and built-in corpora as a training text.

    Raises:
        DataError: as `open_corpus`.
    """
    for document in open_corpus(sources).documents():
        yield from _pieces(document.name, document.pieces())
