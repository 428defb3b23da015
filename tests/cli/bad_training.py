"""Runs that cannot train as they are asked to: rows of docs/errors.md."""

from __future__ import annotations

from bad_inputs import BadInput

CASES = [
    BadInput(
        "Tuning to text nothing but a head for labels",
        "handloom finetune --model runs/spam --data fox.txt --train-params 'classifier.*' --run runs/new",
    )
]
