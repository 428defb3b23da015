"""What is wrong with a command line: problem, then remedy, in one paragraph.

cyclopts finds the fault; its own wording differs between versions and names Python types.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence

from cyclopts import CycloptsError, Token
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
    if isinstance(error, UnknownCommandError):  # the names of commands before the word that is none
        unknown = (error.unused_tokens or [""])[0]
        before = words[: words.index(unknown)] if unknown in words else ()
        chain = [word for word in before if not word.startswith("-")]
    command = " ".join(["handloom", *chain])
    return f"{_problem(error, command)} `{command} --help` shows what there is."


def _problem(error: CycloptsError, command: str) -> str:
    if isinstance(error, UnknownCommandError):
        token = (error.unused_tokens or [""])[0]
        known = [name for name in error.app or () if not name.startswith("-")]
        kind = "flag" if token.startswith("-") else "command"
        return f"`{command}` has no {kind} {_quoted(token)}. {did_you_mean(token, known)}".rstrip()
    if isinstance(error, UnknownOptionError):
        return _unknown_flag(error, command)
    if isinstance(error, UnusedCliTokensError):
        unused = _quoted((error.unused_tokens or [""])[0])
        return f"`{command}` has no use for {unused}. Put quotes around a text with spaces."
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        if error.argument.field_info.is_positional and not error.argument.tokens:
            return f"`{command}` needs {name.lstrip('-').upper()}, and it was not given."
        return f"{name} needs a value behind it."
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword or error.token.value} is given more than once."
    if isinstance(error, CoercionError) and error.token is not None:
        return _wrong_value(error, error.token)
    return " ".join(str(error).split())


def _unknown_flag(error: UnknownOptionError, command: str) -> str:
    token = error.token.keyword or error.token.value
    if " " in token:
        return (
            f"{_quoted(token)} begins with a hyphen, so it is taken for a flag. "
            f"Put -- before a text like that: {command} -- {_quoted(token)}."
        )
    known = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    name = token.partition("=")[0]
    return f"`{command}` has no flag {name}. {did_you_mean(name.replace('_', '-'), known)}".rstrip()


def _wrong_value(error: CoercionError, token: Token) -> str:
    name = token.keyword or (error.argument.name.lstrip("-").upper() if error.argument else "A value")
    if typing.get_origin(error.target_type) is typing.Literal:
        choices = [str(choice) for choice in typing.get_args(error.target_type)]
        wanted, question = " or ".join(choices), did_you_mean(token.value, choices)
    else:
        wanted, question = _KINDS.get(error.target_type or object, "something else"), ""
    return f"{name} is {_quoted(token.value)}; it must be {wanted}. {question}".rstrip()


def _quoted(text: str) -> str:
    return '"' + (text if len(text) <= 60 else text[:57] + "...") + '"'
