"""The learning rate schedule: pure functions of the step."""

from __future__ import annotations

import math

SCHEDULES = ("linear", "cosine", "constant")


def warmup_length(asked: int, total: int) -> int:
    """Warm-up steps: as asked, but never more than a fifth of the run."""
    return max(1, min(asked, total // 5))


def learning_rate_factor(step: int, total: int | None, warmup: int, schedule: str, min_lr_ratio: float = 0.0) -> float:
    """The fraction (0 to 1) of the peak learning rate at `step`, counted from 0.

    1. Rise linearly over the warm-up; stay there while `total`, the steps of the run, is None (still being measured).
    2. Then fall to `min_lr_ratio` at step `total`, in a straight line or along half a cosine
       (Loshchilov & Hutter 2017, "SGDR"), or stay constant.
    """
    if step < warmup or total is None:
        return min(1.0, (step + 1) / warmup)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    remaining = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return min_lr_ratio + (1 - min_lr_ratio) * remaining
