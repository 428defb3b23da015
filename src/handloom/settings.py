"""The one base of all settings: fields of a dataclass, each with its default, help, group, choices and range.

Flags, their help, TOML files and documentation are made from the fields. Knows no torch.
"""

from __future__ import annotations

import codecs
import dataclasses
import math
import operator
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import tomli_w

from handloom.errors import ConfigError, HandloomError, did_you_mean
from handloom.runtime import expanded
from handloom.values import plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

S = TypeVar("S", bound="Settings")


def setting(
    default: Any,
    meaning: str,
    *,
    choices: Sequence[str] | None = None,
    group: str | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    path: bool = False,
    remedy: str | None = None,
    convert: Callable[[Any], Any] | None = None,
) -> Any:
    """A field of settings: its rules are data, and do not apply to None.

    Args:
        meaning: one sentence for the help. What follows "; None: " says what None stands for.
        choices: the values that a text may have; the help lists them.
        group: the heading below which its flag stands.
        at_least, above, at_most, below: the range of a number.
        path: whether it names files or folders, so that `~` stands for the home folder.
        remedy: what to do about a value that is not allowed, where there is more to say than the limit.
        convert: makes the value from what a caller passed, before anything is checked.
    """
    limits = (("at least", at_least), ("above", above), ("at most", at_most), ("below", below))
    metadata = {
        "help": meaning,
        "choices": tuple(choices) if choices is not None else None,
        "group": group,
        "limits": tuple((word, limit) for word, limit in limits if limit is not None),
        "path": path,
        "remedy": remedy,
        "convert": convert,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Settings that are checked when they are made; a field without `setting` is not one, and not checked.

    Raises:
        ConfigError, or what `error` is: a value of another type or outside its limits; names both.
    """

    error: ClassVar[type[HandloomError]] = ConfigError
    subject: ClassVar[str] = "The setting"
    """How an error begins, before the name."""
    exclusive: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of settings of which at most one may be set; a flag for one overrules the other's value in a file."""
    command: ClassVar[str] = ""
    """Whose help lists the settings."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, self._cleaned(field, plain(getattr(self, field.name))))
        for field in setting_fields(type(self)):
            self._check_limits(field)
        for one, other in self.exclusive:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise self.error(
                    f"Both {one} and {other} are set; they contradict each other.", "Give one of them.", setting=other
                )
        self.check_together()

    @classmethod
    def merged(cls: type[S], file: Path | None, flags: Mapping[str, Any]) -> S:
        """Default values, overruled by a TOML file, overruled by flags (by field name).

        Raises ConfigError for a file that is missing or not TOML, a key that does not exist (names the nearest that
        does, or the command whose help lists them), or a value that is not allowed; what the file is to blame for names
        the file.
        """
        values = read_toml(file) if file is not None else {}
        known = setting_names(cls)
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"{file} has a setting {key!r}, which does not exist.",
                    did_you_mean(key, known) or f"`handloom {cls.command} -h` lists all settings.",
                )
        for pair in cls.exclusive:
            for one, other in (pair, pair[::-1]):
                if one in flags and other not in flags:
                    values.pop(other, None)
        try:
            return cls(**{**values, **flags})
        except HandloomError as error:
            if error.setting in values and error.setting not in flags:
                raise type(error)(f"{file}: {error.problem}", error.remedy, setting=error.setting) from None
            raise

    def check_together(self) -> None:
        """Raise `error` for what the limits of single fields cannot express, such as values that contradict others."""

    def require(self, name: str, holds: bool, limit: str, remedy: str | None = None) -> None:
        """Raise `error` unless the value of a setting is allowed; `limit` says what is ("at least 1")."""
        if not holds:
            field = self.__dataclass_fields__[name]
            raise self.error(
                f"{self.subject} {name} is {getattr(self, name)!r}; it must be {limit}.",
                remedy or field.metadata["remedy"] or f"Set `{name}` accordingly.",
                setting=name,
            )

    def to_toml(self) -> str:
        """The settings as TOML; those that are None are left out."""
        return tomli_w.dumps({key: value for key, value in dataclasses.asdict(self).items() if value is not None})

    def _cleaned(self, field: dataclasses.Field[Any], value: Any) -> Any:
        """The value of a field as it is kept: converted, of its type, with `~` expanded."""
        if "help" not in field.metadata:
            return value
        if convert := field.metadata["convert"]:
            value = convert(value)
        elif str(field.type).startswith("tuple") and isinstance(value, str | list):
            value = (value,) if isinstance(value, str) else tuple(value)
        self._check_type(field, value)
        if not field.metadata["path"] or value is None:
            return value
        what = f"`{field.name}`"
        return tuple(expanded(text, what) for text in value) if isinstance(value, tuple) else expanded(value, what)

    def _check_type(self, field: dataclasses.Field[Any], value: Any) -> None:
        annotation = str(field.type)
        if value is None and "None" in annotation:
            return
        types, words = next((kind for name, kind in _KINDS.items() if annotation.startswith(name)), ((object,), ""))
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if annotation.startswith("tuple[str, ...]"):
            fits, words = fits and all(isinstance(item, str) for item in value), "a list of texts"
        if fits and isinstance(value, float) and not math.isfinite(value):
            fits, words = False, "a finite number"
        meaning = field.metadata["help"].split("; None: ")[0].removesuffix(".")
        shown, name = f"{self.subject} {field.name} is {value!r}", field.name
        if not fits:
            raise self.error(f"{shown}; it must be {words}.", f"It means: {meaning}.", setting=name)
        if not all(_is_text(text) for text in (value if isinstance(value, tuple) else [value])):
            problem = f"{shown}, which is not text: it contains half of a character."
            raise self.error(problem, "Write it in UTF-8.", setting=name)

    def _check_limits(self, field: dataclasses.Field[Any]) -> None:
        value, choices, limits = getattr(self, field.name), field.metadata["choices"], field.metadata["limits"]
        if value is None:
            return
        if choices is not None and value not in choices:
            self.require(field.name, False, f"one of {', '.join(choices)}", did_you_mean(str(value), choices))
        holds = all(_HOLDS[word](value, limit) for word, limit in limits)
        self.require(field.name, holds, limits_in_words(limits))


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "Literal": ((str,), "text"),
    "tuple": ((tuple,), "a list"),
}
_HOLDS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}


def limits_in_words(limits: Sequence[tuple[str, float]]) -> str:
    """ "at least 1", "above 0 and below 1", "from 0 to 1"."""
    words = [word for word, _ in limits]
    numbers = [_number(limit) for _, limit in limits]
    if words == ["at least", "at most"]:
        return f"from {numbers[0]} to {numbers[1]}"
    return " and ".join(f"{word} {number}" for word, number in zip(words, numbers, strict=True))


def _number(limit: float) -> str:
    """A limit for people: 2^63 - 1 and not its nineteen digits."""
    for less, words in ((0, ""), (1, " - 1")):
        if isinstance(limit, int) and limit > 2**31 and (limit + less).bit_count() == 1:
            return f"2^{(limit + less).bit_length() - 1}{words}"
    return str(limit)


def _is_text(value: object) -> bool:
    """Whether a text has no halves of characters; anything else is none."""
    return not isinstance(value, str) or not any("\ud800" <= character <= "\udfff" for character in value)


def setting_fields(kind: type) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass that are settings, in order."""
    return [field for field in dataclasses.fields(kind) if "help" in field.metadata]


def setting_names(kind: type) -> list[str]:
    """The names of the settings of a dataclass, in order."""
    return [field.name for field in setting_fields(kind)]


def require_known(names: Iterable[str], known: Collection[str], error: type[HandloomError] = ConfigError) -> None:
    """Raise `error` for the first name that is not among the known ones; the nearest known one is named."""
    for name in names:
        if name not in known:
            remedy = did_you_mean(str(name), known) or f"There are: {', '.join(known)}."
            raise error(f"There is no setting {name!r}.", remedy, setting=str(name))


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises ConfigError when it is missing or not TOML.
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
