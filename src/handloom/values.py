"""Values as callers and files give them: numpy's numbers as Python's, and JSON that may hold anything.

Knows neither numpy nor torch.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

DEEPEST = 200
"""Lists and objects within each other that are read; real files have fewer than ten."""


def plain(value: Any) -> Any:
    """The same value with numbers, truth values and arrays of numpy or torch as Python's, also in tuples and lists."""
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value)) if type(value) in (tuple, list) else value
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def plain_fields(settings: Any) -> None:
    """Make every field of a frozen dataclass `plain`; for `__post_init__`."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if (made := plain(value)) is not value:
            object.__setattr__(settings, field.name, made)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from anywhere.

    Raises:
        ValueError: for what is no JSON, a name with two values, or lists within lists beyond `DEEPEST`, which would
            end Python's stack.
    """
    try:
        value = json.loads(text, object_pairs_hook=unambiguous)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    if _brackets(text) > DEEPEST and _depth(value) > DEEPEST:
        raise ValueError(_too_deep())
    return value


def kind_of(value: Any) -> str:
    """What kind of JSON value this is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of these pairs; raises ValueError where a name has two values, of which one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            if found[name] != value:
                raise ValueError(f'the name "{name}" stands twice in an object, with different values')
    return found


def _brackets(text: str | bytes) -> int:
    """At least the depth of a text, counted quickly."""
    return text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")


def _too_deep() -> str:
    return f"lists and objects lie more than {DEEPEST} deep within each other"


def _depth(value: Any) -> int:
    """How many lists and objects lie within each other, counted a level at a time."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        depth += 1
        if depth > DEEPEST:
            break
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth
