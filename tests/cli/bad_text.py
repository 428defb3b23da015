"""Text and folders that cannot be learned from as they are: rows of docs/errors.md."""

from __future__ import annotations

from bad_inputs import BadInput

CASES = [
    BadInput("A run folder as data", "handloom train --data runs/demo --run runs/new"),
    BadInput("A folder that holds nothing but runs", "handloom train --data runs --run runs/new"),
]
