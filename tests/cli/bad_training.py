"""Runs that cannot train as they are asked to: rows of docs/errors.md."""

from __future__ import annotations

from bad_inputs import BadInput

CASES = [
    BadInput(
        "Tuning to text nothing but a head for labels",
        "handloom finetune --model runs/spam --data fox.txt --train-params 'classifier.*' --run runs/new",
    ),
    BadInput("A plan for a memory that is not a size", "handloom plan --memory 8TB --data fox.txt"),
    BadInput("A plan for too little memory", "handloom plan --memory 1MB --data fox.txt"),
    BadInput("Settings without a plan", "handloom train --plan wrong-key.toml --run runs/new"),
    BadInput("A plan and a run to resume", "handloom train --plan wrong-key.toml --resume runs/demo"),
    BadInput("A speedrun over a text that is too short", "handloom bench speedrun --data short.txt"),
]
