"""Problems in a text: characters that cannot be seen, were wrongly decoded, or look like a special token.

Knows one text in memory, whose line ends are `\\n`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from handloom.tokenizer.chat import ROLES, header_of

TextProblem = tuple[str, int, str]  # the key of its rule, its first character, counted from 0, and what exactly
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_BIDI = re.compile(r"[\u202a-\u202e\u2066-\u2069]")  # what "Trojan Source" (Boucher and Anderson, 2021) is made of
# The joiners U+200C and U+200D belong into emoji and many scripts, but not next to ASCII; tag characters into flags.
_INVISIBLE = re.compile(
    r"[\u00ad\u061c\u180e\u200b\u200e\u200f\u2060-\u2064\ufeff]"
    r"|(?<=[\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?=[\x00-\x7f])"
    r"|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
)
_NAMES = {"\0": "NUL", "\a": "BEL", "\b": "BACKSPACE", "\f": "FORM FEED", "\x1b": "ESCAPE", "\x7f": "DELETE"}

_SPECIAL = re.compile(
    r"<\|[A-Za-z0-9_.-]{1,40}\|>|<\uff5c[^\s<>]{1,40}\uff5c>"
    r"|</?s>|<(?:pad|unk|bos|eos|mask|cls|sep)>|\[(?:PAD|UNK|BOS|EOS|MASK|CLS|SEP)\]"
    r"|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>"
    r"|^\#\#\# (?:Instruction|Input|Response):",
    re.MULTILINE,
)
_TURN = re.compile("|".join(f"^{re.escape(header_of(role))}" for role in ROLES), re.MULTILINE)

# A byte of UTF-8 as Windows-1252 shows it; the five bytes that it leaves undefined as Latin-1 does.
_BYTE_OF = {bytes([byte]).decode("cp1252", "replace"): byte for byte in range(0x80, 0x100)}
_BYTE_OF |= {chr(byte): byte for byte in range(0x80, 0x100)}
del _BYTE_OF["\N{REPLACEMENT CHARACTER}"]


def _shown(first: int, last: int) -> str:
    return "".join(re.escape(c) for c, byte in _BYTE_OF.items() if first <= byte <= last)


_LATER = f"[{_shown(0x80, 0xBF)}]"
_MANGLED = re.compile(
    f"[{_shown(0xC2, 0xDF)}]{_LATER}|[{_shown(0xE0, 0xEF)}]{_LATER}{{2}}|[{_shown(0xF0, 0xF4)}]{_LATER}{{3}}"
)
_SELDOM = "\u00c2\u00c3\u00e2\u00f0"  # first letters that hardly ever stand before such signs in real text
_CLOSING = "\u00bb\u201d\u201c\u2019\u2026"  # what may well follow a capital letter


_PATTERNS = {
    "special-token": _SPECIAL,
    "control": _CONTROL,
    "bidi": _BIDI,
    "invisible": _INVISIBLE,
    "replacement": re.compile("\N{REPLACEMENT CHARACTER}"),
}


def text_problems(text: str, *, turns: bool = False) -> Iterator[TextProblem]:
    """Every problem in a text, kind by kind, each in the order of the text.

    With `turns`, a line such as "Assistant:" is one too, as it is inside a message of a conversation.
    """
    for kind, pattern in _PATTERNS.items():
        if kind not in ("special-token", "control") and text.isascii():
            return
        for found in pattern.finditer(text):
            yield kind, found.start(), _shown_match(kind, found)
        if kind == "control" and turns:
            for found in _TURN.finditer(text):
                yield "special-token", found.start(), f"{found.group().strip()} on a line of its own"
    yield from _mojibake(text)


def _shown_match(kind: str, found: re.Match[str]) -> str:
    """The match itself, the characters around it, or its code point and name."""
    if kind == "special-token":
        return found.group()
    if kind == "replacement":
        return f'in "{" ".join(found.string[max(0, found.start() - 12) : found.start() + 13].split())}"'
    name = _NAMES.get(found.group()) or unicodedata.name(found.group(), "")
    return f"U+{ord(found.group()):04X} {name}".rstrip()


def _mojibake(text: str) -> Iterator[TextProblem]:
    """Letters whose bytes in Windows-1252 are one character in UTF-8, as "\u00c3\u00a9" is "\u00e9".

    A first letter that real text might hold there counts only with a second such place right behind it.
    """
    end, alone = -1, True
    for found in _MANGLED.finditer(text):
        letters = found.group()
        try:
            meant = bytes(_BYTE_OF[letter] for letter in letters).decode("utf-8")
        except UnicodeDecodeError:
            continue
        if not meant.isprintable() and meant != "\u00a0":
            continue
        before = text[found.start() - 1 : found.start()]
        likely = letters[0] in _SELDOM and not (before.isupper() and letters[1] in _CLOSING)
        joins, end = found.start() == end, found.end()
        if likely or (joins and alone):
            yield "mojibake", found.start(), f'"{letters}", perhaps "{meant}"'
        alone = not (likely or joins)
