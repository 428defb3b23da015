"""The interface of a tokenizer, and the text of ids that are still arriving.

Special tokens, such as the end of a text, come from `tokenizer.eos_token_id` or a chat template and never from typed
text: user text is always ordinary text. Knows no algorithm.
"""

from __future__ import annotations

import codecs
import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from handloom.tokenizer.hf_settings import TokenizerSettings

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """Text <-> ids. The hand-written and the fast tokenizer both fit; with one vocabulary they agree."""

    @property
    def vocab_size(self) -> int:
        """The number of ids, the end of text included."""

    @property
    def eos_token_id(self) -> int:
        """The id that ends a document; `encode` never returns it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over vocabulary, merges and special token: equal for two that encode alike."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a generated text: those that the model's files name, or the end of text."""

    @property
    def unused_ids(self) -> tuple[int, ...]:
        """The ids below `vocab_size` without a token."""

    @property
    def settings(self) -> TokenizerSettings:
        """The settings in its files beyond vocabulary and merges."""

    def encode(self, text: str, *, special: bool = False, stand_ins: Mapping[int, str] | None = None) -> list[int]:
        """Ids of `text`, in which special tokens are ordinary text unless `special`; a lone surrogate is U+FFFD."""

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of any ids: an unknown id or bytes that are not UTF-8 become U+FFFD."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id (of U+FFFD for an unknown one); they may be part of a character."""

    def save(self, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        """Write `vocab.json` and `merges.txt`, and files for what they cannot hold; `config` has further keys."""


class StreamingDetokenizer:
    """Decodes one id at a time; all that it returned, joined, is `tokenizer.decode(ids)`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def copy(self) -> StreamingDetokenizer:
        """A detokenizer in the same state."""
        other = copy.copy(self)
        other._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        other._decoder.setstate(self._decoder.getstate())
        return other

    def add_token(self, token: int) -> str:
        """The characters that this id completes, perhaps none."""
        return self._decoder.decode(self._token_bytes(token))

    def finalize(self) -> str:
        """U+FFFD for an incomplete character, or nothing; afterwards the detokenizer can be used again."""
        return self._decoder.decode(b"", final=True)
