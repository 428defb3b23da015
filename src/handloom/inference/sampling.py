"""From scores to a choice: pure functions, applied in the order they stand here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from handloom.errors import RequestError


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token.

    The order is fixed: temperature, then top-k, then top-p, then a draw.
    """

    temperature: float = 0.8
    """Scores are divided by it; 0 always takes the likeliest token (greedy)."""
    top_k: int | None = None
    """Keep only the k likeliest tokens."""
    top_p: float | None = None
    """Keep the fewest likeliest tokens that together have at least this probability."""

    def __post_init__(self) -> None:
        require_number("temperature", self.temperature)
        require_number("top_k", self.top_k, whole=True, optional=True)
        require_number("top_p", self.top_p, optional=True)
        if not 0 <= self.temperature < float("inf"):
            raise RequestError(
                f"The temperature is {self.temperature}; it must be a finite number of at least 0.",
                "Use 0 for the likeliest text, around 0.8 for lively text.",
            )
        if self.top_k is not None and self.top_k < 1:
            raise RequestError(
                f"top_k is {self.top_k}; it must be at least 1.", "Leave it out to keep all tokens."
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise RequestError(
                f"top_p is {self.top_p}; it must be above 0 and at most 1.",
                "Leave it out to keep all tokens.",
            )


def require_number(name: str, value: object, *, whole: bool = False, optional: bool = False) -> None:
    """Raise RequestError unless `value` is a number (or None, where that is allowed)."""
    if value is None and optional:
        return
    kinds = (int,) if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        kind = "a whole number" if whole else "a number"
        raise RequestError(f"{name} is {value!r}; it must be {kind}.", f"Give {name} as {kind}.")


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen (below 1) or flatten (above 1) the scores: (..., V) -> (..., V).

    The highest score becomes 0 first, which changes no probability and lets no temperature overflow.
    """
    highest = logits.amax(dim=-1, keepdim=True)  # (..., 1)
    return (logits - highest) / max(temperature, _COLDEST)


_COLDEST = 1e-30  # below it float32 knows only 0; the likeliest token has all the weight long before


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k highest scores to -inf; of equal scores at the limit all stay.

    Source: Fan et al. 2018, "Hierarchical Neural Story Generation".
    """
    if k >= logits.shape[-1]:
        return logits
    limit = logits.topk(k, dim=-1).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < limit, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Set all scores to -inf but those of the smallest set that holds probability p.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    if p >= 1:
        return logits  # rounding must not cut off the end of the tail
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)  # (..., V)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # probability of all likelier tokens
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(dropped, float("-inf"))


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution to draw from: (..., V) -> (..., V). Greedy puts all weight on one token."""
    logits = logits.float()
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    logits = scale_temperature(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    return logits.softmax(dim=-1)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Choose one token per row by where a number falls on the cumulated distribution.

    Args:
        probabilities: (B, V).
        uniform: (B) in [0, 1), one number per row.

    Returns:
        (B) int64. A token of probability 0 is never chosen.
    """
    cumulated = probabilities.double().cumsum(dim=-1)  # (B, V)
    point = uniform.double()[:, None] * cumulated[:, -1:]  # (B, 1)
    return torch.searchsorted(cumulated, point, right=True)[:, 0]  # (B)
