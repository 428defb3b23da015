"""Flags from a dataclass: one for each field, with its help and default; only those given are kept. And paths."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from handloom.runtime import user_path


def path_of(argument: str | None = None) -> Parameter:
    """How a word of the command line becomes a path.

    Args:
        argument: what to call the path in an error where it has no flag before it.
    """

    def convert(_: type, tokens: Sequence[Token]) -> Path:
        return user_path(tokens[0].value, tokens[0].keyword or argument or "an argument")

    return Parameter(converter=convert)


PathFlag = Annotated[Path, path_of()]
ModelPath = Annotated[Path, path_of("MODEL")]


def flags_of(settings: type, *, several: bool = True, without: Collection[str] = ()) -> type:
    """A dataclass like `settings` whose every field is optional and None when its flag is not given.

    The help of each flag is the field's, with its default behind it. Where the default is None, what
    the help says after "None: " is shown in its place. A field without help is no flag.

    Args:
        settings: a dataclass with a help text in the metadata of its fields.
        several: whether one flag of a list takes several words; otherwise it takes one, and may be repeated.
        without: fields to leave out.
    """
    fields: list[tuple[str, Any, Any]] = []
    types = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if "help" not in field.metadata or field.name in without:
            continue
        kind = types[field.name]
        if typing.get_origin(kind) is tuple:
            kind = list[str]
        extra: dict[str, Any] = {"consume_multiple": True} if kind == list[str] and several else {}
        # What is on by itself, always or at times, can be switched off; what is off needs no flag for that.
        may_be_on = field.default is True or kind == bool | None
        negative = f"--no-{field.name.replace('_', '-')}" if may_be_on else ""
        parameter = Parameter(help=_help(field), show_default=False, negative=negative, **extra)
        fields.append((field.name, Annotated[kind | None, parameter], None))
    made = dataclasses.make_dataclass(f"{settings.__name__}Flags", fields)
    made.__module__ = settings.__module__  # cyclopts takes a class of the module `types` for a built-in one
    return made


def given(flags: Any) -> dict[str, Any]:
    """The flags that were given, by field name."""
    values = dataclasses.asdict(flags)
    return {name: value for name, value in values.items() if value is not None}


def _help(field: dataclasses.Field[Any]) -> str:
    meaning: str = field.metadata["help"]
    default = field.default
    if default is None:
        meaning, _, shown = meaning.partition("; None: ")
        meaning, shown = (meaning + "." if shown else meaning), shown.removesuffix(".")
    elif isinstance(default, bool):
        shown = "on" if default else ""
    elif isinstance(default, tuple):
        shown = " ".join(f'"{value}"' if " " in value else value for value in default)
    else:
        shown = str(default)
    return f"{meaning} [default: {shown}]" if shown else meaning
