"""What is wrong with a command line: problem, then remedy, in one paragraph.

cyclopts finds the fault; its own wording differs between versions and names Python types.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence

from cyclopts import CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from handloom.errors import did_you_mean

_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def usage_error(error: CycloptsError, words: Sequence[str]) -> str:
    """The paragraph to print for what cyclopts found in a command line, given without the program's name."""
    chain = list(error.command_chain or ())
    if isinstance(error, UnknownCommandError):
        chain = _before(words, (error.unused_tokens or [""])[0])
    command = " ".join(["handloom", *chain])
    return f"{_problem(error, command)} `{command} --help` shows what there is."


def _problem(error: CycloptsError, command: str) -> str:
    if isinstance(error, UnknownCommandError):
        return _unknown_command(error, command)
    if isinstance(error, UnknownOptionError):
        return _unknown_flag(error, command)
    if isinstance(error, UnusedCliTokensError):
        return (
            f"`{command}` has no use for {_quoted((error.unused_tokens or [''])[0])}. "
            "Put quotes around a text with spaces."
        )
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        if error.argument.field_info.is_positional and not error.argument.tokens:
            return f"`{command}` needs {name.lstrip('-').upper()}, and it was not given."
        return f"{name} needs a value behind it."
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword or error.token.value} is given more than once."
    if isinstance(error, CoercionError) and error.token is not None:
        return _wrong_value(error)
    return " ".join(str(error).split())


def _unknown_command(error: CycloptsError, command: str) -> str:
    token = (error.unused_tokens or [""])[0]
    known = [name for name in error.app or () if not name.startswith("-")]
    kind = "flag" if token.startswith("-") else "command"
    return f"`{command}` has no {kind} {_quoted(token)}.{_nearest(token, known)}"


def _unknown_flag(error: UnknownOptionError, command: str) -> str:
    token = error.token.keyword or error.token.value
    if " " in token:
        return (
            f"{_quoted(token)} begins with a hyphen, so it is taken for a flag. "
            f"Put -- before a text like that: {command} -- {_quoted(token)}."
        )
    known = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    name = token.partition("=")[0]
    return f"`{command}` has no flag {name}.{_nearest(name.replace('_', '-'), known)}"


def _wrong_value(error: CoercionError) -> str:
    assert error.token is not None
    name = error.token.keyword or (error.argument.name.lstrip("-").upper() if error.argument else "A value")
    given = _quoted(error.token.value)
    if typing.get_origin(error.target_type) is typing.Literal:
        choices = [str(choice) for choice in typing.get_args(error.target_type)]
        return f"{name} is {given}; it must be {' or '.join(choices)}.{_nearest(error.token.value, choices)}"
    kind = _KINDS.get(error.target_type) if error.target_type is not None else None
    return f"{name} is {given}; it must be {kind or 'something else'}."


def _before(words: Sequence[str], token: str) -> list[str]:
    """The names of commands that stand before `token`."""
    at = words.index(token) if token in words else 0
    return [word for word in words[:at] if not word.startswith("-")]


def _nearest(name: str, known: Iterable[str]) -> str:
    return f" {did_you_mean(name, known)}".rstrip()


def _quoted(text: str) -> str:
    return '"' + (text if len(text) <= 60 else text[:57] + "...") + '"'
