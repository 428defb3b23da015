"""Logits to a token: pure functions on the logits alone, applied in the order they stand here.

What depends on the tokens before comes before them: `logits_processors.py`. `SamplingParams` has the meaning
of each setting.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from handloom.inference.generation_config import SamplingParams

_COLDEST = 1e-30  # below it float32 has only 0; the likeliest token has all the weight long before
_BEST = 512  # tokens that are sorted first
_MARGIN = 3e-5  # float32 sums of 50,000 probabilities differ by up to 2e-5 with their order


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen (below 1) or flatten (above 1) the logits: (..., V) -> (..., V).

    The highest logit becomes 0 first, which changes no probability and lets no temperature overflow.
    """
    highest = logits.amax(dim=-1, keepdim=True)  # (..., 1)
    return (logits - highest) / max(temperature, _COLDEST)


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Set all but the k highest logits to -inf; of equal logits at the limit all stay.

    Source: Fan et al. 2018, "Hierarchical Neural Story Generation".
    """
    if k >= logits.shape[-1]:
        return logits
    limit = logits.topk(k, dim=-1).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < limit, float("-inf"))


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Set all logits to -inf but those of the smallest set that holds probability p.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    if p >= 1:
        return logits  # rounding must not cut off the end of the tail
    if logits.shape[-1] <= _BEST:
        return logits.masked_fill(_beyond_top_p(logits, p), float("-inf"))
    best, order = logits.topk(_BEST, dim=-1)  # each (..., 512)
    probs = logits.softmax(dim=-1).gather(-1, order)
    before = probs.cumsum(dim=-1) - probs  # probability of all likelier tokens
    kept = (before < p).sum(dim=-1, keepdim=True).clamp(1, _BEST - 1)  # (..., 1)
    limit = best.gather(-1, kept - 1)
    # Uncertain: the limit is not among the best, or between equal logits, or so near that rounding decides.
    certain = (before[..., -1:] > p) & (best.gather(-1, kept) < limit)
    certain &= (before - p).abs().amin(dim=-1, keepdim=True) > _MARGIN
    return _drop(logits, logits < limit, certain, lambda rows: _beyond_top_p(logits[rows], p))


def _beyond_top_p(logits: Tensor, p: float) -> Tensor:
    """By sorting everything: (..., V) bool. Of equal logits at the limit those with the lower ids stay."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)  # (..., V)
    probs = ordered.softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs
    return torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)


def min_p_filter(logits: Tensor, fraction: float) -> Tensor:
    """Set all logits to -inf whose probability is less than `fraction` of the likeliest token's.

    Source: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs".
    """
    probs = logits.softmax(dim=-1)  # (..., V)
    return logits.masked_fill(probs < fraction * probs.amax(dim=-1, keepdim=True), float("-inf"))


def typical_p_filter(logits: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose NLL is nearest to the entropy, the fewest that hold probability `mass`.

    Of tokens that are equally near at the limit all stay.

    Source: Meister et al. 2023, "Locally Typical Sampling".
    """
    if mass >= 1:
        return logits
    nll = -logits.log_softmax(dim=-1)  # (..., V)
    probs = (-nll).exp()
    entropy = torch.where(probs > 0, probs * nll, 0.0).sum(dim=-1, keepdim=True)  # (..., 1)
    distance = (nll - entropy).abs()  # (..., V)
    if logits.shape[-1] <= _BEST:
        return logits.masked_fill(_beyond_typical_p(distance, probs, mass), float("-inf"))
    nearest, order = distance.topk(_BEST, dim=-1, largest=False)  # each (..., 512)
    held = probs.gather(-1, order).cumsum(dim=-1)
    last = (held < mass).sum(dim=-1, keepdim=True).clamp(max=_BEST - 1)  # (..., 1)
    dropped, certain = distance > nearest.gather(-1, last), held[..., -1:] >= mass
    return _drop(logits, dropped, certain, lambda rows: _beyond_typical_p(distance[rows], probs[rows], mass))


def _beyond_typical_p(distance: Tensor, probs: Tensor, mass: float) -> Tensor:
    """By sorting everything: (..., V) bool."""
    ordered, order = distance.sort(dim=-1, stable=True)
    held = probs.gather(-1, order).cumsum(dim=-1)
    last = (held < mass).sum(dim=-1, keepdim=True).clamp(max=held.shape[-1] - 1)  # (..., 1)
    return distance > ordered.gather(-1, last)


def _drop(logits: Tensor, dropped: Tensor, certain: Tensor, by_sorting: Callable[[Tensor], Tensor]) -> Tensor:
    """Set the dropped logits to -inf; rows (..., 1) for which the best tokens did not suffice are sorted as a whole."""
    if not certain.all():
        rows = ~certain[..., 0]  # (...)
        dropped[rows] = by_sorting(rows)
    return logits.masked_fill(dropped, float("-inf"))


def logits_to_probs(logits: Tensor, params: SamplingParams) -> Tensor:
    """The distribution to draw from: (..., V) -> (..., V). Greedy puts all weight on one token."""
    logits = logits.float()
    if params.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    logits = scale_temperature(logits, params.temperature)
    if params.top_k is not None:
        logits = top_k_filter(logits, params.top_k)
    if params.top_p is not None:
        logits = top_p_filter(logits, params.top_p)
    if params.min_p is not None:
        logits = min_p_filter(logits, params.min_p)
    if params.typical_p is not None:
        logits = typical_p_filter(logits, params.typical_p)
    return logits.softmax(dim=-1)


def sample(probs: Tensor, uniform: Tensor) -> Tensor:
    """Choose one token per row by where a number falls on the cumulated distribution.

    `probs` is (B, V); `uniform` is (B) in [0, 1). Returns (B) int64; a token of probability 0 is never chosen.
    """
    cumulated = probs.double().cumsum(dim=-1)  # (B, V)
    point = uniform.double()[:, None] * cumulated[:, -1:]  # (B, 1)
    return torch.searchsorted(cumulated, point, right=True)[:, 0]  # (B)
