"""Text -> pieces: the first half of GPT-2's tokenizer. No merge ever crosses from one piece to the next.

A piece is a word with the space before it, a number with the space before it, a run of signs, one of the English
endings 's 't 're 've 'm 'll 'd, or white space. Before that, added tokens are matched: strings with an id of their own,
in the order and with the flags of `AddedVocabulary` in Hugging Face's library tokenizers. Special ones (`<|im_start|>`)
are matched only where a caller asks for it, so typed text never becomes one. Knows no merges, no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import regex

from handloom.errors import require_type

T = TypeVar("T")

# GPT-2's pattern (Radford et al. 2019), written so that both `regex` and tiktoken's engine take it.
# `\s++$` adds nothing to what is matched: it only spares the backtracking of the next alternative, on
# which tiktoken's engine runs out of stack when the text ends in a million spaces.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s++$|\s+(?!\S)|\s+"
_PATTERN = regex.compile(PATTERN)

# Unicode grows, and the two engines grow at different times. These letters and numbers came after
# Unicode 16, which is what tiktoken knows; `regex` may know them already, so they are taken out.
_LATER = """
558 58B-58C 88F C5C CDC 208F 209D-209F A7CE-A7CF A7D2 A7D4 A7DD A7E2 A7F1 AB6C-AB6D 107BB-107BF 10940-10959
10EC5-10EC7 10ED9-10EEE 11B0A 11DB0-11DDB 11DE0-11DE9 11DF1 1246F 12475-1247F 12550-12686 16EA0-16EB8
16EBB-16ED3 16FF2-16FF6 187F8-187FF 18CD6-18CDA 18D09-18D20 18D80-18DF2 18E00-19191 191A0-191D2 1B123-1B128
1B168 1D6A6 1DF1F-1DF24 1DF2B-1DF81 1DF90-1DF96 1DFCD-1DFFF 1E6C0-1E6DE 1E6E0-1E6E2 1E6E4-1E6E5 1E6E7-1E6ED
1E6F0-1E6F4 1E6FE-1E6FF 2B73A-2B73F 2B81E 2CEA2-2CEAD 323B0-33479 3D000-3FC3F
"""
_SIGN_TODAY = regex.compile(
    "[" + "".join("-".join(chr(int(end, 16)) for end in span.split("-")) for span in _LATER.split()) + "]"
)

# Two places where every split has a boundary, whatever stands further left or right: before white space
# that follows a visible character, and before the last of several white spaces.
_BOUNDARY = regex.compile(r"(?<=\S)(?=\s)|(?<=\s)(?=\s\S)")


def each_of(texts: Iterable[T]) -> Iterable[T]:
    """The same texts; raises ArgumentError for a single one, each of whose characters would pass for a text."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        require_type(texts, "What should be several texts", (), "a list of str, with a single text as [text]")
    return texts


def well_formed(text: str) -> str:
    """`text` with surrogate pairs joined and lone surrogates replaced by U+FFFD, as tiktoken does it."""
    require_type(text, "The text", str, "a str")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def pretokenize(text: str) -> list[str]:
    """Split `text` into the pieces inside which merges happen; joined, they are the (well-formed) text again."""
    text = well_formed(text)
    if text.isascii() or not _SIGN_TODAY.search(text):
        return _PATTERN.findall(text)
    pieces, start = [], 0
    for stand_in in _PATTERN.findall(_SIGN_TODAY.sub("!", text)):
        end = start + len(stand_in)
        pieces.append(text[start:end])
        start = end
    return pieces


def chunks(text: str, size: int = 100_000) -> Iterator[str]:
    """Cut a long text at boundaries of its pieces: encoding the chunks one by one gives the ids of the whole.

    A chunk ends at the first boundary after `size` characters. A stream is cut by holding the last chunk back:
    `*ready, rest = chunks(rest + new)`.
    """
    start = 0
    while start < len(text):
        boundary = _BOUNDARY.search(text, start + size)
        end = boundary.start() if boundary else len(text)
        yield text[start:end]
        start = end


_WORD = regex.compile(r"\w")
_WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


@dataclass(frozen=True)
class AddedToken:
    """One added token, with the flags of `tokenizers.AddedToken`."""

    id: int
    content: str
    special: bool = False
    lstrip: bool = False  # whether white space before it belongs to it
    rstrip: bool = False
    single_word: bool = False  # whether it is matched only where no letter, digit or underscore touches it
    normalized: bool = False  # matched after all tokens that are not


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
