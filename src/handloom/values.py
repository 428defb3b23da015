"""Values from callers and files: numpy's numbers as Python's, and JSON from anywhere. Knows neither numpy nor torch."""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 200
"""Nested lists and objects that are read; real files have fewer than ten."""


def plain(value: Any) -> Any:
    """The same value with numbers, truth values and arrays of numpy or torch as Python's, also in tuples and lists."""
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value)) if type(value) in (tuple, list) else value
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from anywhere.

    Raises ValueError for what is not JSON, a name with two values, or nesting beyond `DEEPEST`, which could overflow
    Python's stack.
    """
    too_deep = ValueError(f"lists and objects lie more than {DEEPEST} deep within each other")
    try:
        value = json.loads(text, object_pairs_hook=unambiguous)
    except RecursionError:
        raise too_deep from None
    brackets = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if brackets > DEEPEST and _is_too_deep(value):
        raise too_deep
    return value


def kind_of(value: Any) -> str:
    """The kind of a JSON value in words."""
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


def _is_too_deep(value: Any) -> bool:
    """Whether lists and objects are nested beyond `DEEPEST`; goes down a level at a time, without recursion."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [one for one in level if isinstance(one, list | dict)]
        if not level:
            return False
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return True
