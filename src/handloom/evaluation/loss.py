"""Validation: the surprise of a model at text it has not seen, all of it, in the same order every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from handloom.data.windows import validation_batches
from handloom.model.interface import Backbone
from handloom.model.loss import next_token_loss


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    nats_per_token: float
    """Mean surprise at a token, in nats: the validation loss."""
    bits_per_byte: float
    """Surprise at the text per byte of its UTF-8, in bits: comparable between tokenizers, and with `xz`."""
    tokens: int
    bytes: int


@torch.no_grad()
def validate(
    model: Backbone,
    tokens: np.ndarray,
    n_bytes: int,
    context_length: int,
    batch_size: int,
    hidden: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Validation:
    """Predict every token but the first, once, each from at most `context_length` tokens before it.

    Args:
        model: is in evaluation mode meanwhile, and then as it was.
        tokens: (N,) ids.
        n_bytes: bytes of the text they stand for, that of the first token left out.
        context: window length; windows do not overlap, so a token at a window's start is predicted from little.
        batch_size: windows computed together; has no influence on the result beyond rounding.
    """
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for inputs, targets in validation_batches(tokens, context_length, batch_size):
        states = (hidden or model.hidden)(torch.from_numpy(inputs))
        loss, counted = next_token_loss(states, model.lm_head, torch.from_numpy(targets))
        total += loss.item()
        count += counted
    model.train(was_training)
    return Validation(total / count, total / math.log(2) / n_bytes, count, n_bytes)
