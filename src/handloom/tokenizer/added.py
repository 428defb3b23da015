"""Added tokens: strings with an id of their own that are matched in a text before it is split into pieces.

Special ones (the end of text, `<|im_start|>`) are matched only where a caller asks for it, so typed text never becomes
one. The others are matched always. Knows no merges and no files.

Source: `AddedVocabulary` of Hugging Face's library tokenizers, whose order and flags these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import regex

from handloom.tokenizer.pretokenize import well_formed


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
    """Finds added tokens in a text.

    Args:
        tokens: all of a tokenizer.
        special: whether special ones are matched too.
    """

    def __init__(self, tokens: Sequence[AddedToken], special: bool) -> None:
        rounds = ([t for t in tokens if t.normalized == normalized] for normalized in (False, True))
        # A special token that is not matched still hides what overlaps it, as in the library.
        self._rounds = [
            (_alternatives(found), {t.content: t for t in found})
            for found in rounds
            if any(special or not t.special for t in found)
        ]
        self._special = special

    def split(self, text: str) -> Iterator[str | int]:
        """The parts of a text in order: ids of added tokens, and what lies between them; nothing empty."""
        parts: list[str | int] = [text] if text else []
        for pattern, tokens in self._rounds:
            parts = [
                new for part in parts for new in ([part] if isinstance(part, int) else self._cut(part, pattern, tokens))
            ]
        return iter(parts)

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
            if done < start:
                parts.append(text[done:start])
            parts.append(token.id)
            done = end
        if done < len(text):
            parts.append(text[done:])
        return parts


_WORD = regex.compile(r"\w")
_WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def _alternatives(tokens: Sequence[AddedToken]) -> regex.Pattern[str]:
    """The leftmost, and there the longest."""
    contents = sorted((token.content for token in tokens), key=len, reverse=True)
    return regex.compile("|".join(map(regex.escape, contents)))


def encode_parts(
    text: str,
    matcher: AddedTokenMatcher,
    add_prefix_space: bool,
    encode: Callable[[str], list[int]],
    stand_ins: Mapping[int, str] | None = None,
) -> list[int]:
    """Ids of a text: those of its added tokens, and what `encode` gives for the parts between them.

    Args:
        text: a lone surrogate counts as U+FFFD.
        matcher: of the added tokens.
        add_prefix_space: whether each part gets a space before it unless it has one.
        encode: ids of a text without added tokens.
        stand_ins: characters that hide others from the matcher, for `str.translate`.
    """
    ids: list[int] = []
    for part in matcher.split(well_formed(text)):
        if isinstance(part, int):
            ids.append(part)
        else:
            part = part.translate(stand_ins) if stand_ins else part
            ids += encode(" " + part if add_prefix_space and not part.startswith(" ") else part)
    return ids
