"""The training and validation text of a run, reopened.

A run names the tokens that it was trained on. Where the cache still has them they are decoded; else the run's text is
tokenized again. Knows no model.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
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
from handloom.evaluation.memorization import TrainingPiece
from handloom.evaluation.sample_documents import NamedText
from handloom.tokenizer.base import Tokenizer

_TEXT_SETTINGS = (
    "text_field", "encoding_errors", "json_as_text", "document_separator", "validation_fraction", "split",
)  # fmt: skip


class TrainingText:
    """The text of a run, from the training state in its checkpoint, of which anything may be missing.

    Raises DataError when the text is not recorded, cannot be read again, or has changed.
    """

    def __init__(self, training: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        settings = training.get("settings") or {}
        self.sources = tuple(map(str, settings.get("data") or ()))
        """As the run's settings name them."""
        if not self.sources:
            raise DataError("Its run does not record what it was trained on.", "Name the text with `training`.")
        self._tokenizer = tokenizer
        self._example_files: list[Path] = []
        self._tokens: TokenData | None = None
        if settings.get("task", "text") == "text":
            how = {name: settings[name] for name in _TEXT_SETTINGS if name in settings}
            self._tokens = _tokens(str(training.get("data", "")), self.sources, tokenizer, how)
        else:
            self._example_files = [path for source in self.sources for path in example_files(source)]

    @property
    def name(self) -> str:
        """The sources, for people."""
        return ", ".join(self.sources)

    def pieces(self) -> Iterator[TrainingPiece]:
        """The text that it was trained on; of examples every text in them, held out or not."""
        if self._tokens is not None:
            return self._decoded(self._tokens, TRAIN)
        return (piece for path in self._example_files for piece in _example_texts(path))

    def held_out(self) -> Iterator[NamedText]:
        """The validation documents. Raises DataError for a run on examples, which are not text to continue."""
        if self._tokens is None:
            raise DataError(f"{self.name} contains examples, not text.", "Name held-out text with `data`.")
        return _documents(self._decoded(self._tokens, VALIDATION))

    def _decoded(self, data: TokenData, split: int) -> Iterator[TrainingPiece]:
        shard = (data.train, data.validation)[split]
        in_bytes = [self._tokenizer.token_bytes(token) for token in range(self._tokenizer.vocab_size)]
        in_bytes[self._tokenizer.eos_token_id] = b""
        start = 0
        for name, end in zip(data.names(split), shard.ends.tolist(), strict=True):
            decoder = getincrementaldecoder("utf-8")("replace")
            parts = (
                b"".join([in_bytes[token] for token in ids.tolist()]) for ids in in_chunks(shard.tokens[start:end])
            )
            yield from _pieces(name, map(decoder.decode, parts))
            start = end


def _tokens(key: str, sources: Sequence[str], tokenizer: Tokenizer, how: Mapping[str, Any]) -> TokenData:
    """The text with its documents under their present names; what is gone or has changed comes from the cache."""
    cached = open_cached(key, tokenizer) if key else None
    gone = unrepeatable(sources)
    if cached is not None and (gone or {*sources} <= {*BUILTIN}):  # whose documents have the same names always
        return cached
    try:
        if gone:
            raise DataError(
                f"It was trained on {', '.join(gone)}, which cannot be read again.", "Name the text with `training`."
            )
        data = prepare(sources, tokenizer, **how)
        if key and data.key != key:
            raise DataError(
                f"The text {', '.join(sources)} has changed since it was trained on.",
                "Restore the text, or name another with `training`.",
            )
    except DataError:
        if cached is None:
            raise
        return cached
    return data


def _pieces(name: str, chunks: Iterable[str]) -> Iterator[TrainingPiece]:
    """A document in pieces that end before a space, so that none ends within a word."""
    held = ""
    for chunk in chunks:
        held += chunk
        cut = max(held.rfind(" "), held.rfind("\n"))
        if cut > 0:
            yield TrainingPiece(name, held[:cut], ends=False)
            held = held[cut:]
    yield TrainingPiece(name, held, ends=True)


def _documents(pieces: Iterator[TrainingPiece]) -> Iterator[NamedText]:
    texts: list[str] = []
    for piece in pieces:
        texts.append(piece.text)
        if piece.ends:
            yield piece.document, texts
            texts = []


def _example_texts(path: Path) -> Iterator[TrainingPiece]:
    """Every text in a file of records, each a document of its own."""
    for record in read_records(path, ReadOptions()):
        for text in _texts(record.fields):
            yield TrainingPiece(str(record.origin), text, ends=True)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def corpus_pieces(sources: Sequence[str]) -> Iterator[TrainingPiece]:
    """Files, folders, globs and built-in corpora as a training text; raises DataError as `open_corpus` does."""
    for document in open_corpus(sources).documents():
        yield from _pieces(document.name, document.pieces())
