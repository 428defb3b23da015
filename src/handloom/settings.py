"""The one base of all settings: fields of a dataclass, each with its default, help, group, choices and range.

Flags, their help, TOML files and documentation are made from the fields. Knows no torch.
"""

from __future__ import annotations

import codecs
import dataclasses
import math
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

Rule = tuple[str, bool, str]
"""A setting, whether its value is allowed, and what is ("at least 1")."""


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
    exclusive: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of settings of which at most one may be set; a flag for one overrules the other's value in a file."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, self._cleaned(field, plain(getattr(self, field.name))))
        for field in setting_fields(type(self)):
            self._check_limits(field)
        for name, holds, limit in self.rules():
            if not holds:
                raise self.refusal(name, limit)
        for one, other in self.exclusive:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise self.error(
                    f"Both {one} and {other} are set; they contradict each other.", "Give one of them.", setting=other
                )
        self.check_together()

    def rules(self) -> Iterable[Rule]:
        """What a value has to be, where the field's own limits cannot express it."""
        return ()

    def check_together(self) -> None:
        """Raise `error` where values that are allowed alone contradict each other."""

    def refusal(self, name: str, limit: str, remedy: str | None = None) -> HandloomError:
        """The error for a value that is not allowed; `limit` says what is."""
        field = next(field for field in dataclasses.fields(self) if field.name == name)
        remedy = remedy or field.metadata["remedy"] or f"Set `{name}` accordingly."
        return self.error(f"The setting {name} is {getattr(self, name)!r}; it must be {limit}.", remedy, setting=name)

    def to_toml(self) -> str:
        """The settings as TOML; those that are None are left out."""
        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
            if value is not None
        }
        return tomli_w.dumps(values)

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
        if not fits:
            meaning = field.metadata["help"].split("; None: ")[0].removesuffix(".")
            raise self.error(
                f"The setting {field.name} is {value!r}; it must be {words}.",
                f"It means: {meaning}.",
                setting=field.name,
            )
        if any(
            isinstance(text, str) and not _is_text(text) for text in (value if isinstance(value, tuple) else [value])
        ):
            raise self.error(
                f"The setting {field.name} is {value!r}, which is not text: it contains half of a character.",
                "Write it in UTF-8.",
                setting=field.name,
            )

    def _check_limits(self, field: dataclasses.Field[Any]) -> None:
        value, choices, limits = getattr(self, field.name), field.metadata["choices"], field.metadata["limits"]
        if value is None:
            return
        if choices is not None and value not in choices:
            hint = did_you_mean(str(value), choices)
            raise self.refusal(field.name, f"one of {', '.join(choices)}", hint or None)
        if limits and not all(_HOLDS[word](value, limit) for word, limit in limits):
            raise self.refusal(field.name, limits_in_words(limits))


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "Literal": ((str,), "text"),
    "tuple": ((tuple,), "a list"),
}
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "at least": lambda value, limit: value >= limit,
    "above": lambda value, limit: value > limit,
    "at most": lambda value, limit: value <= limit,
    "below": lambda value, limit: value < limit,
}


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


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


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


S = TypeVar("S", bound=Settings)


def merge_settings(kind: type[S], file: Path | None, flags: Mapping[str, Any], command: str) -> S:
    """Settings of that kind: default, overruled by a TOML file, overruled by flags (by field name).

    Raises:
        ConfigError: for a file that is missing or not TOML, a key that does not exist (names the nearest that does, or
            the command whose help lists them), or a value that is not allowed; what the file is to blame for names
            the file.
    """
    values = read_toml(file) if file is not None else {}
    known = setting_names(kind)
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{file} has a setting {key!r}, which does not exist.",
                did_you_mean(key, known) or f"`handloom {command} -h` lists all settings.",
            )
    for pair in kind.exclusive:
        for one, other in (pair, pair[::-1]):
            if one in flags and other not in flags:
                values.pop(other, None)
    try:
        return kind(**{**values, **flags})
    except HandloomError as error:
        if error.setting in values and error.setting not in flags:
            raise type(error)(f"{file}: {error.problem}", error.remedy, setting=error.setting) from None
        raise


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: when it is missing or not TOML.
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
