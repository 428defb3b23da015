"""What settings are: fields of a dataclass, each with its default and its meaning, stated once.

Flags, `--help`, TOML files and the documentation are made from them. Here is what all settings have in
common; `config` has those of a run. Knows no torch.
"""

from __future__ import annotations

import codecs
import dataclasses
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from handloom.errors import ConfigError, did_you_mean
from handloom.runtime import expanded
from handloom.values import plain_fields

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Rule = tuple[str, bool, str]
"""A setting, whether its value has a meaning, and what would have."""


def setting(default: Any, meaning: str, *, path: bool = False) -> Any:
    """A field with its default and its help. What the help says after "None: " tells what None stands for.

    Args:
        default: its value if none is given.
        meaning: its help.
        path: whether it names files or folders, so that `~` stands for the home folder.
    """
    return dataclasses.field(default=default, metadata={"help": meaning, "path": path})


@dataclass(frozen=True)
class Settings:
    """Settings that are checked when they are made.

    Raises:
        ConfigError: for a value of another type, or one without meaning; names it and the limit.
    """

    def __post_init__(self) -> None:
        plain_fields(self)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if str(field.type).startswith("tuple") and isinstance(value, str | list):
                object.__setattr__(self, field.name, (value,) if isinstance(value, str) else tuple(value))
        _check_types(self)
        self._expand_paths()
        for name, holds, limit in self.rules():
            if not holds:
                raise ConfigError(
                    f"The setting {name} is {getattr(self, name)!r}; it must be {limit}.",
                    f"Set --{name.replace('_', '-')} accordingly.",
                )
        self.check_together()

    def _expand_paths(self) -> None:
        for field in dataclasses.fields(self):
            if field.metadata.get("path"):
                value, flag = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
                several = isinstance(value, tuple)
                texts = tuple(expanded(text, flag) for text in (value if several else (value,)))
                object.__setattr__(self, field.name, texts if several else texts[0])

    def rules(self) -> Iterable[Rule]:
        """What each value has to be."""
        return ()

    def check_together(self) -> None:
        """Raise ConfigError where values that are fine alone contradict each other."""

    def to_toml(self) -> str:
        """The settings as TOML; those that are None are left out."""
        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
            if value is not None
        }
        return tomli_w.dumps(values)


S = TypeVar("S", bound=Settings)


def merge_settings(kind: type[S], file: Path | None, flags: dict[str, Any], command: str) -> S:
    """Settings of that kind: default, overruled by the file, overruled by flags.

    Args:
        kind: the dataclass.
        file: a TOML file of settings, or None.
        flags: those given on the command line, by field name.
        command: whose `--help` lists them.

    Raises:
        ConfigError: for a file that is missing or no TOML, a key that does not exist (the nearest
            that does is named), or a value that has no meaning.
    """
    values = read_toml(file) if file is not None else {}
    known = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{file} has a setting {key!r}, which does not exist.",
                did_you_mean(key, known) or f"`handloom {command} --help` lists all settings.",
            )
    for one, other in (("steps", "minutes"), ("minutes", "steps")):
        if one in flags and other not in flags:
            values.pop(other, None)  # a flag overrules the file's choice between the two
    return kind(**{**values, **flags})


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: when it is missing or no TOML.
    """
    try:
        raw = file.read_bytes()
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw[:4]:
            raise ConfigError(
                f"The settings file {file} is UTF-16 (or UTF-32) text; TOML is UTF-8.",
                "Save it as UTF-8: Out-File -Encoding utf8 in PowerShell, or the encoding in the editor's save dialog.",
            )
        return tomllib.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"The settings file {file} cannot be read: {error.strerror}.", "Check its path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}.", "Write settings as `name = value`, one a line.") from None


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "tuple": ((tuple,), "a list of texts"),
}


def _check_types(config: Settings) -> None:
    for field in dataclasses.fields(config):
        value, annotation = getattr(config, field.name), str(field.type)
        if value is None and "None" in annotation:
            continue
        types, words = next(kind for name, kind in _KINDS.items() if annotation.startswith(name))
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if isinstance(value, tuple):
            fits = fits and all(isinstance(item, str) for item in value)
        texts = value if isinstance(value, tuple) else (value,)
        if fits and any(isinstance(text, str) and not _is_text(text) for text in texts):
            raise ConfigError(
                f"The setting {field.name} is {value!r}, which is no text: it holds half of a character.",
                "Write it in UTF-8.",
            )
        if fits and isinstance(value, float) and not math.isfinite(value):
            fits, words = False, "a number with an end"
        if not fits:
            raise ConfigError(
                f"The setting {field.name} is {value!r}; it must be {words}.",
                f"It means: {field.metadata['help'].split('; None: ')[0].removesuffix('.')}.",
            )


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
