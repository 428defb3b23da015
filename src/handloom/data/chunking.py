"""A text as a stream: its documents, and pieces that can be tokenized one by one with the tokens of the whole.

Documents are separated by a line, the usual form of story corpora. Pieces are cut where GPT-2's split pattern has a
boundary: it never joins a character that is not whitespace with whitespace after it, since it looks ahead only within
whitespace, and never back. A text may be larger than memory. Characters only; no files, no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from handloom.errors import ConfigError
from handloom.tokenizer.base import END_OF_TEXT

PIECE = 1 << 18  # characters; large enough to amortize handing it to another thread
LONGEST = 1 << 20  # characters without a safe place before we cut anyway
_LINE_WITHIN = 1 << 16  # characters in which the tail's first line is searched

SAFE = " \t\n"  # whitespace by any definition; str's own \s knows more characters than Unicode's White_Space
_SAFE = re.compile(rf"(?<=\S)[{SAFE}]")


def chunk_text(chunks: Iterable[str], size: int = PIECE, longest: int = LONGEST, before: str = SAFE) -> Iterator[str]:
    """Cut a stream of text into pieces, none empty, where tokenization has a boundary anyway.

    The pieces do not depend on where the chunks end. A piece has at most `size` characters if there is a safe place
    before that: whitespace out of `before` behind a character that is not whitespace (an empty `before`: the text stays
    whole). After `longest` characters without one it is cut anyway, which may give other tokens there than the whole.
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
    end. Neither part is tokenized across it.
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


LIMITS = "one line that is not blank; empty for none"
_LONGEST_LINE = 1 << 16  # characters of a line that are held back until its end is seen
Chunks = Callable[[], Iterable[str]]


@dataclass
class Separation:
    """Where documents were separated within files, and where `<|endoftext|>` stayed within a text."""

    separator: str = END_OF_TEXT
    files: int = 0  # text files in which documents are separated
    documents: int = 0  # in these
    first_file: str = ""
    end_of_text: int = 0  # how often `<|endoftext|>` stands within a document, and is learned as ordinary text
    first_document: str = ""

    def add(self, name: str, file: str, part: int, end_of_text: int) -> None:
        """Count a document: the `part`-th of its file, with `<|endoftext|>` in it so many times."""
        if part > 1:
            self.files += part == 2
            self.documents += 2 if part == 2 else 1
            self.first_file = self.first_file or file
        if end_of_text:
            self.end_of_text += end_of_text
            self.first_document = self.first_document or name

    def sentences(self) -> list[tuple[str, bool]]:
        """What is worth printing, and whether there is something to do about it."""
        found = []
        if self.files:
            where = self.first_file if self.files == 1 else f"{self.files:,} files, the first {self.first_file}"
            found.append((f"{self.documents:,} documents separated by {self.separator} in {where}.", False))
        if self.end_of_text:
            times = "once" if self.end_of_text == 1 else f"{self.end_of_text:,} times, first"
            stays = f"{END_OF_TEXT} stands {times} in {self.first_document}, and is learned as ordinary text there."
            usual = self.separator == END_OF_TEXT
            how = "In a text file a line break before or after it makes it separate documents." if usual else (
                f"`document_separator='{END_OF_TEXT}'` separates documents at it."
            )  # fmt: skip
            found.append((f"{stays} {how}", not usual))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value or name == "separator"}


def is_separator(text: str) -> bool:
    """Whether documents can be separated by it: see `LIMITS`."""
    return text == "" or bool(text.strip() and "\n" not in text and "\r" not in text)


def check_separator(text: str) -> None:
    """Raise ConfigError unless documents can be separated by `text`."""
    if not is_separator(text):
        problem = f"document_separator is {text!r}, but must be {LIMITS}."
        raise ConfigError(problem, f'Give a line such as "{END_OF_TEXT}".', setting="document_separator")


def split_documents(read: Chunks, separator: str) -> Iterator[tuple[int, Chunks]]:
    """The documents of one text: for each the line that it begins in, from 1, and what gives its text.

    `separator` stands alone in a line between two documents, white space around it allowed; `<|endoftext|>` separates
    where it begins or ends a line, too; an empty one separates nothing. `read` gives the text from its beginning, in
    chunks of any size. A document that is read after the next was requested is read again from there. White space
    between separators is not a document, but a text without one is an empty one.
    """
    empty = True
    for number, texts in groupby(_numbered(read(), separator), key=itemgetter(0)):
        document = _Document(read, separator, number, texts)
        yield document.line, document.chunks
        document.is_current = empty = False
    if empty:
        yield 1, tuple


class _Document:
    """One document of a text that is being read, or that was."""

    def __init__(self, read: Chunks, separator: str, number: int, texts: Iterator[tuple[int, int, str]]) -> None:
        self._read, self._separator, self._number = read, separator, number
        first = next(texts)
        self.line = first[1]
        self.is_current = True
        self._texts: Iterator[tuple[int, int, str]] | None = chain((first,), texts)

    def chunks(self) -> Iterator[str]:
        """Its text: from the stream while that stands at its beginning, otherwise read again."""
        texts, self._texts = self._texts, None
        if texts is None or not self.is_current:
            for number, _, text in _numbered(self._read(), self._separator):
                if number > self._number:
                    return
                if number == self._number:
                    yield text
            return
        for _, _, text in texts:
            yield text
            assert self.is_current, "a document's text is read before the next document is requested, or from scratch"


def _numbered(chunks: Iterable[str], separator: str) -> Iterator[tuple[int, int, str]]:
    """Number of a document (separators before it), the line of its text, and its text piece by piece."""
    if not separator:
        yield from ((0, 1, text) for text in chunks)
        return
    number, line, blank, begun = 0, 1, list[str](), False
    for text, is_separator in _parts(chunks, separator):
        if is_separator:
            number, begun = number + 1, False
            line += text.count("\n") + sum(piece.count("\n") for piece in blank)
            blank.clear()
            continue
        blank.append(text)
        begun = begun or not text.isspace()
        if begun:
            for piece in blank:
                yield number, line, piece
                line += piece.count("\n")
            blank.clear()
    if not number:
        for piece in blank:
            yield number, line, piece


def _parts(chunks: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """The text in parts, none empty, each with whether it is a separator."""
    mark = separator.strip()
    held, start = "", 0  # held[:start] is done with; its last character shows whether a line begins after it
    for chunk in chunks:
        held += chunk
        end = held.rfind("\n") + 1
        if len(held) - end > _LONGEST_LINE:
            end = len(held) - _LONGEST_LINE
            across = held.find(mark, end - len(mark) + 1, end + len(mark) - 1)
            end = end if across < 0 else across
        if end > start:
            yield from _cut(held, start, end, mark, is_all=False)
            keep = end - 1
            held, start = held[keep:], 1
    yield from _cut(held, start, len(held), mark, is_all=True)


def _cut(text: str, start: int, end: int, mark: str, is_all: bool) -> Iterator[tuple[str, bool]]:
    """The parts of text[start:end]; `is_all` if nothing follows `text`."""
    at = text.find(mark, start, end)
    while at >= 0:
        first, last = at, at + len(mark)
        while first > start and text[first - 1] in " \t":
            first -= 1
        while last < len(text) and text[last] in " \t":
            last += 1
        begins = first == 0 or text[first - 1] == "\n"
        ends = text[last] == "\n" if last < len(text) else is_all
        if (begins and ends) or (mark == END_OF_TEXT and (begins or ends)):
            first, last = first if begins else at, last + 1 if ends else at + len(mark)
            if first > start:
                yield text[start:first], False
            yield text[first:last], True
            start = last
        at = text.find(mark, max(start, at + len(mark)), end)
    if end > start:
        yield text[start:end], False
