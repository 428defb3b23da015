"""Long texts become pieces that can be tokenized one by one, with the tokens of the whole.

GPT-2's split pattern never joins a character that is not whitespace with whitespace after it, so such a place is always
a token boundary: the pattern looks ahead only within whitespace, and never back. Characters only; no files, no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PIECE = 1 << 18  # characters; large enough to amortize handing it to another thread
LONGEST = 1 << 20  # characters without a safe place before we cut anyway
_LINE_WITHIN = 1 << 16  # characters in which the tail's first line is searched

# str's own \s knows a few characters more than Unicode's White_Space, so both sides of the cut are what they seem to
# any definition.
SAFE = " \t\n"
_SAFE = re.compile(rf"(?<=\S)[{SAFE}]")


def chunk_text(chunks: Iterable[str], size: int = PIECE, longest: int = LONGEST, before: str = SAFE) -> Iterator[str]:
    """Cut a stream of text into pieces, none empty, where tokenization has a boundary anyway.

    The pieces do not depend on where the chunks end. A piece has at most `size` characters if there is a safe place
    before that: whitespace out of `before` behind a character that is not whitespace (an empty `before`: the text stays
    whole). After `longest` characters it is cut in any place, which may give other tokens than the whole right there:
    that happens only in a run of so many characters without whitespace, or of whitespace only.
    """
    held = ""
    safe = re.compile(rf"(?<=\S)[{before}]") if before else None

    def cut(start: int) -> int:
        """Where the piece that begins at `start` ends, or 0 if more text must be seen first."""
        if safe is None or len(held) - start <= size:
            return 0
        for reach in (256, size):  # the nearest whitespace is rarely far
            last = 0
            for found in safe.finditer(held, max(start + 1, start + size - reach), start + size + 1):
                last = found.start()
            if last:
                return last
        if later := safe.search(held, start + size, start + longest + 1):
            return later.start()
        return start + longest if len(held) - start > longest else 0

    for chunk in chunks:
        held += chunk
        start = 0
        while end := cut(start):
            yield held[start:end]
            start = end
        held = held[start:]
    if held:
        yield held


def split_tail(chunks: Iterable[str], mark: int) -> Iterator[tuple[bool, str]]:
    """Split a text in two near `mark` UTF-8 bytes, at the start of a line if one is near.

    Gives pairs (is tail, text), all of the head before all of the tail; the cut does not depend on where the chunks
    end. Neither part is tokenized across the cut, so any place is sound; the start of a line reads best.
    """
    stream = iter(chunks)
    before, seen = "", 0  # one chunk is held back, for a look at the character before the mark
    for chunk in stream:
        raw = chunk.encode("utf-8")
        if seen + len(raw) > mark:
            break
        if before:
            yield False, before
        before, seen = chunk, seen + len(raw)
    else:
        if before:
            yield False, before
        return
    at = len(before) + len(raw[: mark - seen].decode("utf-8", "ignore"))
    at = max(at, 1)  # even the shortest text has a head
    held = before + chunk
    while len(held) <= at + _LINE_WITHIN and (more := next(stream, "")):
        held += more
    cut = _line_start(held, at)
    yield False, held[:cut]
    if held[cut:]:
        yield True, held[cut:]
    for chunk in stream:
        yield True, chunk


def _line_start(text: str, at: int) -> int:
    """The first line's start at or after `at` with text behind it, else a word's, else `at` itself."""
    end = min(len(text), at + _LINE_WITHIN)
    newline = text.find("\n", at - 1, end)
    if 0 <= newline < len(text) - 1:
        return newline + 1
    space = _SAFE.search(text, at, end)
    return space.start() if space and text[space.start() :].strip() else at
