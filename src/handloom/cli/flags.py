"""Flags: those of a settings dataclass, one for each field; paths; and settings in a text as flags."""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter, Token

from handloom.cli.help import find_command, heading
from handloom.runtime import user_path


def path_of(argument: str | None = None) -> Parameter:
    """How a word of the command line becomes a path; an error calls it `argument` where no flag is before it."""

    def convert(_: type, tokens: Sequence[Token]) -> Path:
        return user_path(tokens[0].value, tokens[0].keyword or argument or "an argument")

    return Parameter(converter=convert)


PathFlag = Annotated[Path, path_of()]
ModelPath = Annotated[Path, path_of("MODEL")]

ESSENTIAL, RUN, OPTIONS = (Parameter(group=heading(name)) for name in ("Essentials", "Run", "Options"))
"""Where `--help` puts a parameter of a command: `run: Annotated[PathFlag | None, ESSENTIAL] = None`."""


def flags_of(settings: type, *, several: bool = True, without: Collection[str] = ()) -> type:
    """A dataclass like `settings` whose every field is optional and None when its flag is not given.

    The help of each flag is the field's, with its choices and default behind it; where the default is None, what
    the help says after "None: ". Fields without help, and those in `without`, are left out. Unless `several`, a flag of
    a list takes one word, and may be repeated.
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
        if group := field.metadata.get("group"):
            extra["group"] = heading(group)
        if field.metadata.get("path") or field.metadata.get("choices"):
            metavar = "PATH" if field.metadata["path"] else "CHOICE"
            extra["metavar"] = f"{metavar}..." if kind == list[str] else metavar
        # What is on by default, always or at times, can be switched off; what is off needs no flag for that.
        may_be_on = field.default is True or kind == bool | None
        negative = _flag(field.name, "no-") if may_be_on else ""
        parameter = Parameter(help=_help(field), show_default=False, show_choices=False, negative=negative, **extra)
        fields.append((field.name, Annotated[kind | None, parameter], None))
    made = dataclasses.make_dataclass(f"{settings.__name__}Flags", fields)
    made.__module__ = settings.__module__  # cyclopts takes a class of the module `types` for a built-in one
    return Parameter(name="*")(made)


def given(flags: Any) -> dict[str, Any]:
    """The flags that were given, by field name; none if `flags` is None."""
    values = {} if flags is None else dataclasses.asdict(flags)
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
    choices = field.metadata.get("choices") or re.findall("[\"'](.*?)[\"']", str(field.type).partition("Literal")[2])
    extras = [f"[choices: {', '.join(choices)}]"] * bool(choices) + [f"[default: {shown}]"] * bool(shown)
    return re.sub(r"`([a-z_]+)`", lambda name: _flag(name[1]), " ".join([meaning, *extras]))


def _flag(name: str, prefix: str = "") -> str:
    return f"--{prefix}{name.replace('_', '-')}"


_SETTING = re.compile(r"`(?!handloom`)([a-z][a-z0-9_]*)(?:=([^`]+))?`")


def in_flags(text: str, app: App, words: Sequence[str] = ()) -> str:
    """The text with settings in backticks as flags: `overflow=slide` as --overflow slide, `pack=false` as --no-pack.

    Backticks around anything but a setting of some command of the app stay. The command that the words call comes
    first; what it takes without a flag is shown as MODEL.
    """
    if "`" not in text:
        return text
    current, _ = find_command(app, words)

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        commands = itertools.chain([(current, True)], ((command, False) for command in _commands(app)))
        known = (_flags_in(command, positional) for command, positional in commands)
        off = f"no_{name}" if value == "false" else name  # a flag may be the negative itself
        found = next((flags.get(off) or flags[name] for flags in known if name in flags or off in flags), None)
        if found is None:
            return match.group()
        if value == "false":
            return found if found.startswith("--no-") else f"--no-{found.removeprefix('--')}"
        return found if value in (None, "true") else f"{found} {value}"

    return _SETTING.sub(flag, text)


def _commands(app: App) -> Iterator[App]:
    """An app and all commands below it."""
    yield app
    for name in app:
        if not name.startswith("-"):
            yield from _commands(app[name])


def _flags_in(command: App, positional: bool) -> dict[str, str]:
    """What a command calls each of its parameters, by the parameter's name and by the flag's."""
    found: dict[str, str] = {}
    if command.default_command is None:
        return found
    for argument in command.assemble_argument_collection():
        flag = argument.names[0]
        name = flag.removeprefix("--").replace("-", "_")
        if not argument.field_info.is_positional and flag.startswith("--"):
            found |= {argument.field_info.name: flag, name: flag}
        elif positional:
            found[argument.field_info.name] = name.upper()
    return found
