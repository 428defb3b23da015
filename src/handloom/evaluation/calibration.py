"""Whether a model is as often right as it says: its confidence in the likeliest token against how often that came.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks". Knows ids only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from handloom.data.windows import IGNORE_INDEX, validation_batches
from handloom.model.interface import Backbone, evaluating
from handloom.model.loss import score_tokens

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The tokens that were predicted with about the same confidence."""

    low: float
    high: float
    """The confidence is above `low` and at most `high`."""
    tokens: int
    confidence: float | None
    """The mean probability of the likeliest token; None in an empty bin, as the next two."""
    accuracy: float | None
    """How often the likeliest token was the one that came."""
    standard_error: float | None
    """Of the accuracy, if tokens are taken as independent."""


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy are apart."""

    bins: tuple[Bin, ...]
    error: float
    """The expected calibration error: the mean distance between confidence and accuracy, bins weighed by tokens."""
    tokens: int
    confidence: float
    accuracy: float


@torch.inference_mode()
def calibrate(model: Backbone, texts: Iterable[np.ndarray], *, context_length: int, batch_size: int = 8) -> Calibration:
    """Let a model predict each token but the first of each text, from at most `context_length` tokens before it.

    Args:
        model: is in evaluation mode meanwhile, and then as it was.
        texts: (N,) ids each, with at least 2 of them.
        context: window length; windows lie side by side, so a token at a window's start is predicted from little.
        batch_size: windows read together; has no influence on the result beyond rounding.
    """
    with evaluating(model):
        found = [
            _predicted(model, torch.from_numpy(inputs), torch.from_numpy(targets))
            for ids in texts
            for inputs, targets in validation_batches(ids, min(context_length, len(ids) - 1), batch_size)
        ]
    confidence, right = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return reliability(confidence, right)


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Calibration:
    """Sort predictions into bins of equal width and compare.

    Args:
        confidence: (N,) the probability of the likeliest answer, above 0 and at most 1.
        right: (N,) bool, whether it was the right one.
        bins: how many.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    confidence = confidence.astype(np.float64)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)  # (N,)
    made, error = [], 0.0
    for number in range(bins):
        here = which == number
        count = int(here.sum())
        if not count:
            made.append(Bin(float(edges[number]), float(edges[number + 1]), 0, None, None, None))
            continue
        sure, accuracy = float(confidence[here].mean()), float(right[here].mean())
        spread = float(np.sqrt(accuracy * (1 - accuracy) / count))
        made.append(Bin(float(edges[number]), float(edges[number + 1]), count, sure, accuracy, spread))
        error += count / len(confidence) * abs(sure - accuracy)
    return Calibration(tuple(made), error, len(confidence), float(confidence.mean()), float(right.mean()))


def _predicted(model: Backbone, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of each target that counts: the probability of the likeliest token, and whether it is the target."""
    counts = targets != IGNORE_INDEX  # (B, T)
    scores = score_tokens(model.hidden(inputs)[counts], model.lm_head, targets[counts])
    return scores.confidence, scores.is_top1
