"""Added tokens: strings with an id of their own that are matched in a text before it is split into pieces.

Special ones (the end of text, `<|im_start|>`) are matched only where a caller asks for it, so typed text never becomes
one. The others are matched always. Knows no merges and no files.

Source: `AddedVocabulary` of Hugging Face's library tokenizers, whose order and flags these are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import regex

from handloom.tokenizer.pretokenize import well_formed

_WORD = regex.compile(r"\w")
_WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


@dataclass(frozen=True)
class AddedToken:
    """One added token, with the flags of `tokenizers.AddedToken`."""

    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    """Whether white space before it belongs to it."""
    rstrip: bool = False
    single_word: bool = False
    """Whether it is matched only where no letter, digit or underscore touches it."""
    normalized: bool = False
    """Matched after all tokens that are not."""


class AddedTokenMatcher:
    """Finds the added tokens of a tokenizer in a text; special ones only with `special`."""

    def __init__(self, tokens: Sequence[AddedToken], special: bool) -> None:
        self._special = special
        self._rounds: list[tuple[regex.Pattern[str], dict[str, AddedToken]]] = []
        for normalized in (False, True):
            # A special token that is not matched still hides what overlaps it, as in the library.
            found = {token.content: token for token in tokens if token.normalized == normalized}
            if any(special or not token.special for token in found.values()):
                contents = sorted(found, key=len, reverse=True)  # the leftmost, and there the longest
                self._rounds.append((regex.compile("|".join(map(regex.escape, contents))), found))

    def split(self, text: str) -> list[str | int]:
        """The parts of a text in order: ids of added tokens, and the texts between them; nothing empty."""
        parts: list[str | int] = [text] if text else []
        for pattern, tokens in self._rounds:
            cut = ([part] if isinstance(part, int) else self._cut(part, pattern, tokens) for part in parts)
            parts = [new for some in cut for new in some]
        return parts

    def _cut(self, text: str, pattern: regex.Pattern[str], tokens: dict[str, AddedToken]) -> list[str | int]:
        parts: list[str | int] = []
        done = 0
        for found in pattern.finditer(text):
            token, start, end = tokens[found.group()], found.start(), found.end()
            if token.special and not self._special:
                continue
            if token.single_word and (_WORD.match(text[start - 1 : start]) or _WORD.match(text[end : end + 1])):
                continue
            if token.lstrip:
                start = max(done, len(text[:start].rstrip(_WHITE)))
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip(_WHITE))
            parts += [text[done:start], token.id]
            done = end
        return [part for part in (*parts, text[done:]) if part != ""]

    def encode(
        self,
        text: str,
        encode: Callable[[str], list[int]],
        *,
        add_prefix_space: bool,
        stand_ins: Mapping[int, str] | None = None,
    ) -> list[int]:
        """Ids of a text: those of its added tokens, and those that `encode` returns for the parts between them.

        With `add_prefix_space`, each part gets a space before it unless it has one. `stand_ins` replace characters
        after the matching, for `str.translate`; a lone surrogate counts as U+FFFD.
        """
        ids: list[int] = []
        for part in self.split(well_formed(text)):
            if isinstance(part, int):
                ids.append(part)
            else:
                part = part.translate(stand_ins) if stand_ins else part
                ids += encode(" " + part if add_prefix_space and not part.startswith(" ") else part)
        return ids
