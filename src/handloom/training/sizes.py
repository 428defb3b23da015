"""How many rows make a step and how many steps a run, where nobody says. Knows no torch, like the settings."""

from __future__ import annotations

STEPS = 1000
"""Steps of a run from scratch."""

USUAL_BATCH, STEPS_AN_EPOCH = 8, 16
"""When tuning: rows in a step where there is enough data, and steps in an epoch that make it enough."""

FEW_STEPS = 30
"""Of a run with fewer it is said that it has few."""


def batch_size_for(rows: int, steps: int = STEPS_AN_EPOCH) -> int:
    """The usual batch, or the largest smaller power of two with which an epoch of so many rows has so many steps."""
    size = USUAL_BATCH
    while size > 1 and rows < steps * size:
        size //= 2
    return size
