"""What `handloom verify` prints, and how it reads its text. Knows what was found, not how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handloom.errors import ConfigError, RequestError
from handloom.inspection.check import TOLERANCE

if TYPE_CHECKING:
    from handloom.inspection.activations import Difference
    from handloom.inspection.check import Check
    from handloom.inspection.diff import Comparison

_RESULTS = {True: ("passed", "green"), False: ("failed", "bold red"), None: ("not checked", "")}
_PARTS = {
    "attention_norm": "the LayerNorm before attention",
    "attention.pattern": "how much tokens look at each other",
    "attention.out": "what attention adds",
    "feedforward_norm": "the LayerNorm before the feed-forward network",
    "feedforward.out": "what the feed-forward network adds",
    "resid_post": "the residual stream behind it",
    "final_norm": "the LayerNorm behind the last block",
    "logits": "the scores of the next token",
}
_SHOWN = 5
"""Names of differing tensors that are listed."""


def require_tolerance(tolerance: float) -> None:
    """Raise ConfigError for one that has no meaning."""
    if not 0 <= tolerance < math.inf:
        raise ConfigError(
            f"The tolerance is {tolerance}; it must be a finite number of at least 0.",
            f"0 allows no difference at all; the usual is {TOLERANCE:g}.",
        )


def chosen_text(text: str | None, file: Path | None, against: str | None) -> str | None:
    """The text to read: given, or from a file; None if neither is given.

    Raises:
        RequestError: both are given, or one without a model to compare with, or the file is not text.
    """
    if text is not None and file is not None:
        raise RequestError("Both --text and --text-file are given.", "Give one of them.")
    if against is None and (text is not None or file is not None):
        raise RequestError("A text is read by two models only.", "Name the other one with --against.")
    if file is None:
        return text
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"The text file {file} cannot be read: {error.strerror}.", "Give a UTF-8 text file."
        ) from None
    except UnicodeDecodeError as error:
        raise RequestError(
            f"The text file {file} is not UTF-8 text: the byte at offset {error.start} is wrong.",
            "Convert it first, for example with iconv.",
        ) from None


def print_checks(title: str, checks: Iterable[Check], as_json: bool) -> bool:
    """Print the checks. Returns whether none failed."""
    from rich.table import Table
    from rich.text import Text

    from handloom.console import new_console, print_json

    table = Table(title=title, title_justify="left")
    for column in ("check", "result", "how it went"):
        table.add_column(column, overflow="fold")
    passed = True
    for check in checks:
        passed = passed and check.passed is not False
        if as_json:
            print_json(dataclasses.asdict(check))
        table.add_row(check.name, Text(*_RESULTS[check.passed]), check.detail)
    if not as_json:
        new_console().print(table)
    return passed


def print_comparison(one: str, other: str, found: Comparison, tolerance: float, as_json: bool) -> bool:
    """Print where two models part. Returns whether they do not."""
    from handloom.console import new_console, print_json

    if as_json:
        print_json(_record(one, other, found, tolerance))
        return found.first is None
    console = new_console()
    for line in (*_heading(one, other, found), *_what_is_compared(found)):
        console.print(line)
    console.print(_table(found))
    for line in _verdict(one, other, found, tolerance):
        console.print(line)
    return found.first is None


def _heading(one: str, other: str, found: Comparison) -> Iterable[str]:
    from handloom.inspection.diff import PRECISIONS

    meaning = f" ({PRECISIONS[other]})" if other in PRECISIONS else ""
    yield f"{one} against {other}{meaning}"
    text = "".join(found.tokens)
    yield f"Both read {len(found.ids)} tokens: {_short(repr(text), 60)}"
    if not found.same_tokenizer:
        yield f"Their tokenizers differ: the ids are those of {one}, and stand for other text in {other}."


def _what_is_compared(found: Comparison) -> Iterable[str]:
    for name, (here, there) in found.settings.items():
        yield f"They differ in {name}: {here} and {there}."
    weights = found.weights
    if not weights.differing:
        yield f"All {weights.count} weights that both have are the same to the bit."
    else:
        names = _listed(weights.differing)
        yield f"{len(weights.differing)} of {weights.count} weights are not the same to the bit: {names}."
    if weights.lone:
        yield f"Only one of them has {_listed(weights.lone)}."


def _table(found: Comparison) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("activation", no_wrap=True)
    for column in ("differs by", "largest"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("at token", no_wrap=True)
    for name, difference in found.summary():
        place = found.position(difference)
        where = f"{place} {_short(repr(found.tokens[place]), 20)}" if difference.worst else ""
        style = "bold red" if difference is found.first else None
        table.add_row(name, f"{difference.worst:.1e}", f"{difference.scale:.3g}", where, style=style)
    return table


def _verdict(one: str, other: str, found: Comparison, tolerance: float) -> Iterable[str]:
    first = found.first
    if first is None:
        yield f"Nothing differs by more than {tolerance:g} of an activation's largest number (or of 1)."
        return
    place = found.position(first)
    yield f"The first divergence is {first.name}, {_described(first)}."
    yield f"It is worst at token {place} of the text (the first is 0), {found.tokens[place]!r}{_looked_at(found)}."
    yield f"There element {list(first.where[1:])} is {first.ours:.8g} in {one} and {first.theirs:.8g} in {other}."
    allowed = tolerance * max(1.0, first.scale)
    yield f"They differ by {first.worst:.2e}; {allowed:.2e} is allowed ({tolerance:g} of {max(1.0, first.scale):.3g})."


def _described(difference: Difference) -> str:
    """A part in words."""
    if difference.name == "blocks.0.resid_pre":
        return "the sum of token and position embedding"
    if not difference.name.startswith("blocks."):
        return _PARTS[difference.name]
    _, number, *rest = difference.name.split(".")
    return f"block {number} (the first is 0): {_PARTS['.'.join(rest)]}"


def _looked_at(found: Comparison) -> str:
    """For an attention pattern the head, and the token that is looked at."""
    if found.first is None or not found.first.name.endswith(".pattern"):
        return ""
    _, head, _, key = found.first.where
    return f", where head {head} looks at token {key}, {found.tokens[key]!r}"


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _record(one: str, other: str, found: Comparison, tolerance: float) -> dict[str, Any]:
    """JSON values. What is not finite, which JSON cannot express, is text: "nan", "inf"."""

    def described(difference: Difference) -> dict[str, Any]:
        place = found.position(difference)
        token = {"place": place, "id": found.ids[place], "text": found.tokens[place]}
        values = {"name": difference.name, "where": difference.where, "token": token}
        for name in ("worst", "scale", "ours", "theirs"):
            number = getattr(difference, name)
            values[name] = number if math.isfinite(number) else str(number)
        return values

    return {
        "model": one,
        "against": other,
        "tolerance": tolerance,
        "ids": found.ids,
        "same_tokenizer": found.same_tokenizer,
        "settings": {name: list(pair) for name, pair in found.settings.items()},
        "weights": dataclasses.asdict(found.weights),
        "first": None if found.first is None else described(found.first),
        "activations": [described(difference) for difference in found.differences],
    }
