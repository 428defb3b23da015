"""From scores to a choice: pure functions on the scores alone, applied in the order they stand here.

What looks at the text so far comes before them: `so_far.py`. `SamplingParams` says what each setting means.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handloom.inference.generation_config import SamplingParams


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen (below 1) or flatten (above 1) the scores: (..., V) -> (..., V).

    The highest score becomes 0 first, which changes no probability and lets no temperature overflow.
    """
    highest = logits.amax(dim=-1, keepdim=True)  # (..., 1)
    return (logits - highest) / max(temperature, _COLDEST)


_COLDEST = 1e-30  # below it float32 knows only 0; the likeliest token has all the weight long before


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Set all but the k highest scores to -inf; of equal scores at the limit all stay.

    Source: Fan et al. 2018, "Hierarchical Neural Story Generation".
    """
    if k >= logits.shape[-1]:
        return logits
    limit = logits.topk(k, dim=-1).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < limit, float("-inf"))


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Set all scores to -inf but those of the smallest set that holds probability p.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    if p >= 1:
        return logits  # rounding must not cut off the end of the tail
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)  # (..., V)
    logits_to_probs = ordered.softmax(dim=-1)
    before = logits_to_probs.cumsum(dim=-1) - logits_to_probs  # probability of all likelier tokens
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(dropped, float("-inf"))


def min_p_filter(logits: Tensor, share: float) -> Tensor:
    """Set all scores to -inf whose probability is less than `share` of the likeliest token's.

    Source: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs".
    """
    p = logits.softmax(dim=-1)  # (..., V)
    return logits.masked_fill(p < share * p.amax(dim=-1, keepdim=True), float("-inf"))


def typical_p_filter(logits: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose surprise is nearest to its mean, the fewest that hold probability `mass`.

    Of tokens that are equally near at the limit all stay.

    Source: Meister et al. 2023, "Locally Typical Sampling".
    """
    if mass >= 1:
        return logits
    surprise = -logits.log_softmax(dim=-1)  # (..., V)
    p = (-surprise).exp()
    mean = torch.where(p > 0, p * surprise, 0.0).sum(dim=-1, keepdim=True)  # (..., 1)
    distance = (surprise - mean).abs()  # (..., V)
    ordered, order = distance.sort(dim=-1, stable=True)
    held = p.gather(-1, order).cumsum(dim=-1)
    last = (held < mass).sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)  # (..., 1)
    return logits.masked_fill(distance > ordered.gather(-1, last), float("-inf"))


def logits_to_probs(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """The distribution to draw from: (..., V) -> (..., V). Greedy puts all weight on one token."""
    logits = logits.float()
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    logits = scale_temperature(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = top_k_filter(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = top_p_filter(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = min_p_filter(logits, sampling.min_p)
    if sampling.typical_p is not None:
        logits = typical_p_filter(logits, sampling.typical_p)
    return logits.softmax(dim=-1)


def sample(logits_to_probs: Tensor, uniform: Tensor) -> Tensor:
    """Choose one token per row by where a number falls on the cumulated distribution.

    Args:
        probabilities: (B, V).
        uniform: (B) in [0, 1), one number per row.

    Returns:
        (B) int64. A token of probability 0 is never chosen.
    """
    cumulated = logits_to_probs.double().cumsum(dim=-1)  # (B, V)
    point = uniform.double()[:, None] * cumulated[:, -1:]  # (B, 1)
    return torch.searchsorted(cumulated, point, right=True)[:, 0]  # (B)
