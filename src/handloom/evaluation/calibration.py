"""Expected calibration error: top-1 confidence against accuracy. Knows ids only.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from handloom.data.windows import windows_of
from handloom.evaluation.scoring import score_windows
from handloom.model.interface import Backbone

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The tokens that were predicted with about the same confidence; None where there are none."""

    low: float
    high: float
    """The confidence is above `low` and at most `high`."""
    tokens: int = 0
    confidence: float | None = None
    """The mean probability of the most probable token."""
    accuracy: float | None = None
    """How often the most probable token was the target."""
    standard_error: float | None = None
    """Of the accuracy, if tokens are taken as independent."""


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy differ."""

    bins: tuple[Bin, ...]
    error: float
    """The expected calibration error: the mean distance between confidence and accuracy, bins weighted by tokens."""
    tokens: int
    confidence: float
    accuracy: float


def calibrate(model: Backbone, texts: Iterable[np.ndarray], *, context_length: int, batch_size: int = 8) -> Calibration:
    """Calibration on every token but the first of each text of (N,) ids, N > 1, by windows that do not overlap.

    `batch_size` windows are computed together.
    """
    windows = (window for ids in texts for window in windows_of([ids], context_length=context_length))
    scores = [(score.confidence, score.is_top1) for score in score_windows(model, windows, batch_size)]
    confidence, is_top1 = map(np.concatenate, zip(*scores, strict=True))
    return reliability(confidence, is_top1)


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Calibration:
    """Compare confidence (N,), above 0 and at most 1, with correctness (N,) bool, in `bins` of equal width."""
    edges = np.linspace(0.0, 1.0, bins + 1).tolist()
    confidence = confidence.astype(np.float64)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)  # (N,)
    made, error = [], 0.0
    for number in range(bins):
        here, low, high = which == number, edges[number], edges[number + 1]
        if not (count := int(here.sum())):
            made.append(Bin(low, high))
            continue
        mean, accuracy = float(confidence[here].mean()), float(right[here].mean())
        deviation = float(np.sqrt(accuracy * (1 - accuracy) / count))
        made.append(Bin(low, high, count, mean, accuracy=accuracy, standard_error=deviation))
        error += count / len(confidence) * abs(mean - accuracy)
    return Calibration(
        tuple(made), error, len(confidence), confidence=float(confidence.mean()), accuracy=float(right.mean())
    )
