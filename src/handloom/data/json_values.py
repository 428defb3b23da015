"""JSON values out of a stream of text, one at a time: the elements of a list, or values one after the other.

Memory is that of the longest value, however many there are. Knows no files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from handloom.values import unambiguous

_decode = json.JSONDecoder(object_pairs_hook=unambiguous).raw_decode
_skip = json.JSONDecoder().raw_decode
_NO_SPACE = re.compile(r"[^ \t\n\r]|\Z")


class MalformedError(Exception):
    """What is not JSON, and its line."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.line = line


def json_values(chunks: Iterable[str]) -> Iterator[tuple[Any, int, int]]:
    """Every value of a text, and the line and column (from 1) where it begins; column 0 for the first of its line.

    Those of a list that is not inside another value come one by one. Raises MalformedError for what is not JSON, when
    its turn comes.
    """
    scanner, last, depth = _Scanner(chunks), 0, 0
    while character := scanner.peek():
        if (character, depth) in (("[", 0), ("]", 1)):
            scanner.skip()
            depth = 1 - depth
            continue
        line, column = scanner.line, scanner.column
        yield scanner.value(), line, column if line == last else 0
        last = line
        if depth and (after := scanner.peek()) != "]":
            if after != ",":
                problem = f"{after!r} where a comma or ] should be" if after else "the list is not closed"
                raise MalformedError(problem, scanner.line)
            scanner.skip()
            if scanner.peek() == "]":
                raise MalformedError("a comma before ]", scanner.line)
    if depth:
        raise MalformedError("the list is not closed", scanner.line)


def is_json(head: str, cut_from: int) -> bool:
    """Whether a text with this beginning is JSON objects or lists, one after the other, and nothing else.

    A `head` shorter than `cut_from` characters is the whole text.
    """
    at, found = _after_space(head, 0), False
    if head[at : at + 1] not in ("{", "["):
        return False
    while at < len(head):
        try:
            value, at = _skip(head, at)
        except json.JSONDecodeError as error:
            return len(head) >= cut_from and _is_cut(error, head)
        except (ValueError, RecursionError):  # a number of thousands of digits, or too deep
            return False
        if not isinstance(value, dict | list) or not value:
            return False
        at, found = _after_space(head, at), True
    return found


def _after_space(text: str, at: int) -> int:
    return next(_NO_SPACE.finditer(text, at)).start()


def _is_cut(error: json.JSONDecodeError, text: str) -> bool:
    """Whether the error may come from the end of the text; the longest token that may be cut is `-Infinity`."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - 12


class _Scanner:
    """Text as it comes, dropped when it has been read."""

    def __init__(self, chunks: Iterable[str]) -> None:
        self._chunks = iter(chunks)
        self._text, self._at = "", 0
        self.line = self.column = 1

    def peek(self) -> str:
        """The next character that is not a space; empty at the end."""
        while True:
            self._move(_after_space(self._text, self._at))
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        self._move(self._at + 1)

    def value(self) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if _is_cut(error, self._text) and self._read():
                    continue
                line = self.line + self._text.count("\n", self._at, error.pos)
                raise MalformedError(error.msg, line) from None
            except (ValueError, RecursionError) as error:
                problem = "nested too deep" if isinstance(error, RecursionError) else str(error)
                raise MalformedError(problem, self.line) from None
            self._move(end)
            return value

    def _move(self, to: int) -> None:
        lines = self._text.count("\n", self._at, to)
        self.line += lines
        self.column = to - self._text.rfind("\n", self._at, to) if lines else self.column + to - self._at
        self._at = to

    def _read(self) -> bool:
        """Read as much again as is waiting, so that a long value is not begun too often; False at the end."""
        parts = [self._text[self._at :]]
        waiting = wanted = len(parts[0])
        for chunk in self._chunks:
            parts.append(chunk)
            wanted -= len(chunk)
            if wanted < 0:
                break
        self._text, self._at = "".join(parts), 0
        return len(self._text) > waiting
