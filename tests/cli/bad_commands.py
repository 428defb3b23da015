"""Outputs, standard input, stop strings, numbers and packages that commands refuse: rows of docs/errors.md."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from bad_inputs import BadInput

from handloom import runtime

_SHAPE = {"n_layer": 10**12, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 280}
LAYERS = json.dumps({"model_type": "gpt2", "eos_token_id": 279, "bos_token_id": 279, **_SHAPE})


def _without_standard_input(undo: ExitStack) -> None:
    undo.enter_context(mock.patch.object(sys, "stdin", None))


def _without_harness(undo: ExitStack) -> None:
    undo.enter_context(mock.patch.dict(sys.modules, {"lm_eval": None}))
    sys.modules.pop("handloom.evaluation.lm_eval_adapter", None)


def _small_machine(undo: ExitStack) -> None:
    undo.enter_context(mock.patch.object(runtime, "memory_bytes", return_value=16 * 10**9))


def _config(text: str):
    """A folder `theirs` with that config.json, on a machine of 16 GB."""

    def before(undo: ExitStack) -> None:
        Path("theirs").mkdir()
        Path("theirs", "config.json").write_text(text, encoding="utf-8")
        _small_machine(undo)

    return before


CASES = [
    BadInput(
        "results over the questions", "handloom evaluate runs/demo --data long-choice.jsonl --items long-choice.jsonl"
    ),
    BadInput("one file for the page and the numbers", "handloom compare a b --out a.html --json a.html"),
    BadInput("no standard input", "handloom generate -", _without_standard_input),
    BadInput("no standard input for a chat", "handloom chat runs/demo", _without_standard_input),
    BadInput("no standard input for a text", "handloom tokenize -", _without_standard_input),
    BadInput("the harness is not installed", "handloom lm-eval runs/demo --tasks x", _without_harness),
    BadInput("a model of the harness's own", "handloom lm-eval runs/demo --model hf --tasks x"),
    BadInput("a model of 10^12 layers", "handloom generate Hi --model theirs", _config(LAYERS)),
    BadInput("settings of a file nested too deep", "handloom generate Hi --model theirs", _config("[" * 10**5)),
    BadInput(
        "a run that is larger than the machine", "handloom train --data fox.txt --layers 10000000000000", _small_machine
    ),
    BadInput("a precision that bench does not have", "handloom bench decode --model nano --precision int9"),
    BadInput("a precision that training does not have", "handloom bench train --model nano --precision int8"),
    BadInput("no model to measure", "handloom bench prefill --model nowhere"),
    BadInput("no model to tune", "handloom tune nowhere"),
    BadInput("a backslash in a stop string", r"handloom generate The --stop '\d'"),
]
