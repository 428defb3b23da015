"""Ids -> text while they are still arriving. A token may end inside a character, which waits for its rest."""

from __future__ import annotations

import codecs
import copy

from handloom.tokenizer.base import Tokenizer


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
