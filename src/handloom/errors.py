"""Typed errors: each says what happened and where, with the limit that was passed, and then the remedy.

The command line prints the text as one paragraph and exits with 2; a library caller catches `HandloomError`. An error
names a setting in backticks, as Python writes it: `overflow=slide`; the command line shows the flag in its place.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class HandloomError(Exception):
    """Base of every error that Handloom raises on purpose; `setting` names the one setting that it is about, if any."""

    def __init__(self, problem: str, remedy: str, *, setting: str | None = None) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy
        self.setting = setting

    def __reduce__(self) -> tuple[type[HandloomError], tuple[str, str], dict[str, object]]:
        return type(self), (self.problem, self.remedy), self.__dict__  # so that a worker process can pass it on


class ConfigError(HandloomError):
    """A setting outside its limits, or one that contradicts another."""


class ArgumentError(HandloomError):
    """A value of a type that a function does not take."""


class DataError(HandloomError):
    """Text, or prepared tokens, that cannot be used as they are."""


class CheckpointError(HandloomError):
    """A run or model on disk that is missing, incomplete, foreign, or cannot be written."""


class IncompleteError(CheckpointError):
    """A file or folder on disk that differs from what was written: a part of it is missing or altered."""


class ModelError(HandloomError):
    """Tensors of a shape or size that the model does not take."""


class RequestError(HandloomError):
    """A request for text that cannot be served as asked."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names what is nearest to a misspelt word, or "" if nothing is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"Did you mean {near[0]!r}?" if near else ""


def require_type(value: object, what: str, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raise ArgumentError unless a value from a Python caller is of one of these types.

    `what` begins the sentence ("The path for the model"); `wanted` says in words what it must be ("a str or a Path").
    """
    if not isinstance(value, kinds):
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        raise ArgumentError(f"{what} is {shown}, of type {type(value).__name__}.", f"Pass {wanted}.")


_wordings: list[Callable[[str], str]] = []


def worded(text: str) -> str:
    """An error or a note for people: its settings as the program that prints it spells them."""
    return _wordings[-1](text) if _wordings else text


@contextmanager
def wording(spell: Callable[[str], str]) -> Iterator[None]:
    """Within it, `worded` spells settings so; the command line makes flags of them."""
    _wordings.append(spell)
    try:
        yield
    finally:
        _wordings.pop()
