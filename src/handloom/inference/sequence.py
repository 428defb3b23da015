"""One text while it is being written: tokens in, certain text out, and the rules for its end.

Knows no model.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence

from handloom.errors import RequestError
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.detokenizer import StreamingDetokenizer


class Row:
    """One text being written: what is certain of it, and whether it has ended."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.finish = ""
        self._ends = frozenset(tokenizer.eos_token_ids)
        self._stop = stop
        self._stream = StreamingDetokenizer(tokenizer)
        self._held = ""  # may be the beginning of a stop string

    def add_token(self, token: int) -> str:
        """Add a token; returns the text that is certain now. After the end it changes nothing."""
        if self.finish:
            return ""
        self.ids.append(token)
        if token in self._ends:
            return self._release(self._stream.finalize(), "end_of_text")
        return self._release(self._stream.add_token(token), "")

    def close(self) -> str:
        """End the text for its length; returns what was held back, but not a character cut in half."""
        return "" if self.finish else self._release("", "length")

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return bool(self.finish)

    def after(self, token: int) -> Row:
        """A row that goes on from here with one more token, without the ids and the text so far; this one stays."""
        grown = copy.copy(self)
        grown.ids, grown.text, grown._stream = [], "", self._stream.copy()
        grown.add_token(token)
        return grown

    def _release(self, new: str, finish: str) -> str:
        held = self._held + new
        # The stop string that is complete first ends the text, however the text is cut into tokens.
        found = [(at + len(s), at) for s in self._stop if (at := held.find(s)) >= 0]
        if found:
            certain, self._held, self.finish = held[: min(found)[1]], "", "stop"
        else:
            keep = 0 if finish else self._possible_stop(held)
            certain, self._held, self.finish = held[: len(held) - keep], held[len(held) - keep :], finish
        self.text += certain
        return certain

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        longest = max((len(s) for s in self._stop), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            if any(s.startswith(text[-length:]) for s in self._stop):
                return length
        return 0


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def typed_stop(text: str) -> str:
    r"""A stop string as a person types it, who has no other way to write a line break than \n.

    Raises:
        RequestError: for a backslash before anything but n, t, r and another backslash.
    """

    def character(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPES:
            raise RequestError(
                f"The stop string {text} has a backslash that stands for nothing.",
                r"Write \\ for a backslash, \n for a line break, \t for a tab, \r for a carriage return.",
            )
        return _ESCAPES[found[1]]

    return re.sub(r"\\(.?)", character, text, flags=re.DOTALL)


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """One stop string or several, or None for none, checked and as they stand.

    Raises:
        RequestError: for what is no text, or empty.
    """
    if stop is None:
        return ()
    strings = tuple(stop) if isinstance(stop, Iterable) and not isinstance(stop, str) else (stop,)
    if any(not isinstance(s, str) for s in strings):
        raise RequestError("A stop string is no text.", "Pass a str, or several.")
    if any(not s for s in strings):
        raise RequestError("A stop string is empty, which would end every text at once.", "Leave it out.")
    return strings
