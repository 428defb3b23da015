"""Outputs, standard input, stop strings, numbers and packages that commands refuse: rows of docs/errors.md."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from unittest import mock

from bad_inputs import BadInput


def _without_standard_input(undo: ExitStack) -> None:
    undo.enter_context(mock.patch.object(sys, "stdin", None))


CASES = [
    BadInput(
        "results over the questions",
        "handloom evaluate runs/demo --data long-choice.jsonl --items long-choice.jsonl",
    ),
    BadInput("one file for the page and the numbers", "handloom compare a b --out a.html --json a.html"),
    BadInput("no standard input", "handloom generate -", _without_standard_input),
    BadInput("no standard input for a chat", "handloom chat runs/demo", _without_standard_input),
    BadInput("no standard input for a text", "handloom tokenize -", _without_standard_input),
    BadInput("a backslash in a stop string", r"handloom generate The --stop '\d'"),
]
