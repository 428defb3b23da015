"""What can go wrong, in words for the person who can mend it.

Every error says what happened and where, with the limit that was passed, and then the remedy.
The command line prints the text as one paragraph and exits with 2; a library caller catches
`HandloomError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names what is nearest to a misspelt word, or nothing if nothing is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"Did you mean {near[0]!r}?" if near else ""


def require_type(value: object, what: str, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raise ArgumentError unless a value that a Python caller passed is of one of these types.

    Args:
        value: what was passed.
        what: what it was passed as, to begin the sentence with.
        kinds: as for isinstance.
        wanted: what it must be, in words.
    """
    if not isinstance(value, kinds):
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        raise ArgumentError(f"{what} is {shown}, of type {type(value).__name__}.", f"Pass {wanted}.")


class HandloomError(Exception):
    """Base of every error that Handloom raises on purpose.

    Args:
        problem: one or two sentences: what, where, and the limit.
        remedy: one or two sentences: what to do about it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[HandloomError], tuple[str, str]]:
        return type(self), (self.problem, self.remedy)  # so that a worker process can hand it on


class ConfigError(HandloomError):
    """A setting that has no meaning, or contradicts another."""


class ArgumentError(HandloomError):
    """A value of a type that a function does not take."""


class DataError(HandloomError):
    """Text, or prepared tokens, that cannot be used as they are."""


class CheckpointError(HandloomError):
    """A run or model on disk that is missing, torn, foreign, or cannot be written."""


class IncompleteError(CheckpointError):
    """A file or folder on disk that is not as it was written: something of it is missing or altered."""


class ModelError(HandloomError):
    """Tensors of a shape or size that the model does not take."""


class RequestError(HandloomError):
    """A request for text that cannot be served as asked."""
