"""How fast to learn, step by step. Pure functions of the step."""

from __future__ import annotations

import math

SHAPES = ("linear", "cosine", "constant")


def warmup_length(asked: int, total: int) -> int:
    """Steps of warm-up: as asked, but never more than a fifth of the run."""
    return max(1, min(asked, total // 5))


def learning_rate_factor(step: int, total: int | None, warm_up: int, shape: str, final: float = 0.0) -> float:
    """The share of the peak learning rate to use at `step`.

    1. Rise linearly over the warm-up.
    2. Then fall to `final` at step `total`, in a straight line or along half a cosine
       (Loshchilov & Hutter 2017, "SGDR"), or stay.

    Args:
        step: from 0.
        total: steps of the whole run; None while it is still being measured (then warm-up only).
        warm_up: steps of warm-up.
        shape: one of `SHAPES`.
        final: share of the peak that is left at the end.

    Returns:
        a number from 0 to 1.
    """
    if step < warm_up or total is None:
        return min(1.0, (step + 1) / warm_up)
    if shape == "constant":
        return 1.0
    progress = min(1.0, (step - warm_up) / max(1, total - warm_up))
    remaining = 1 - progress if shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return final + (1 - final) * remaining
