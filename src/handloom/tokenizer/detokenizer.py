"""Ids -> text while they are still arriving.

A token may end in the middle of a character; the half is kept back until the rest has come. Knows no
terminal and no model.
"""

from __future__ import annotations

import codecs
import copy

from handloom.tokenizer.base import Tokenizer


class StreamingDetokenizer:
    """Decodes one id at a time; all that it returned, joined, is `tokenizer.decode(ids)`.

    Args:
        tokenizer: whose ids will be pushed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def copy(self) -> StreamingDetokenizer:
        """A stream that goes on from here; this one stays."""
        other = copy.copy(self)
        other._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        other._decoder.setstate(self._decoder.getstate())
        return other

    def add_token(self, token: int) -> str:
        """Whole characters that this id completes, perhaps none."""
        return self._decoder.decode(self._token_bytes(token))

    def finalize(self) -> str:
        """What was kept back, which now is U+FFFD, or nothing. The stream can then be used again."""
        return self._decoder.decode(b"", final=True)
