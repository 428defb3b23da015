"""Logits to a token: pure functions on the logits alone, applied in the order they stand here.

What depends on the tokens before comes before them: `logits_processors.py`. `SamplingParams` has the meaning
of each setting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from handloom.inference.generation_config import SamplingParams

_COLDEST = 1e-30  # below it float32 has only 0; the likeliest token has all the weight long before
_BEST = 512  # tokens that are sorted first
_BLOCK = 256  # tokens whose probabilities are summed at once


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
    """Set all logits to -inf but those of the smallest set that holds probability p, summed in float64.

    Of equal logits at the limit those with the lower ids stay.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    if p >= 1:
        return logits  # rounding must not cut off the end of the tail
    probs = logits.softmax(dim=-1)  # (..., V)
    ordered, order = probs.double().sort(dim=-1, descending=True, stable=True)
    beyond = ordered.cumsum(dim=-1) - ordered >= p  # the probability of all likelier tokens
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), float("-inf"))


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
    if not certain.all():  # rows for which the nearest tokens did not suffice are sorted as a whole
        rows = ~certain[..., 0]  # (...)
        dropped[rows] = _beyond_typical_p(distance[rows], probs[rows], mass)
    return logits.masked_fill(dropped, float("-inf"))


def _beyond_typical_p(distance: Tensor, probs: Tensor, mass: float) -> Tensor:
    """By sorting everything: (..., V) bool."""
    ordered, order = distance.sort(dim=-1, stable=True)
    held = probs.gather(-1, order).cumsum(dim=-1)
    last = (held < mass).sum(dim=-1, keepdim=True).clamp(max=held.shape[-1] - 1)  # (..., 1)
    return distance > ordered.gather(-1, last)


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


def sample_logits(logits: Tensor, params: SamplingParams, uniform: Sequence[float]) -> list[int]:
    """As `sample(logits_to_probs(logits, params), uniform)`, of (B, V); does not sort or cumulate whole rows."""
    if params.typical_p is not None:
        numbers = torch.tensor(uniform, dtype=torch.float64, device=logits.device)
        return [int(token) for token in sample(logits_to_probs(logits, params), numbers)]
    probs = scale_temperature(logits.float(), params.temperature).softmax(dim=-1)  # (B, V)
    floors = torch.zeros(len(probs))
    if params.top_k is not None and params.top_k < probs.shape[-1]:
        floors = probs.topk(params.top_k, sorted=False).values.amin(dim=-1)  # (B)
    each = zip(probs.cpu().numpy(), floors.cpu().numpy(), uniform, strict=True)
    return [_draw(row, floor, params, number) for row, floor, number in each]


def _draw(probs: np.ndarray, floor: np.float32, params: SamplingParams, uniform: float) -> int:
    """A token from probabilities (V), of which top-k leaves those from `floor` on; looks at what filters may leave."""
    V, p = len(probs), 1.0 if params.top_p is None else params.top_p
    mass = probs[probs >= floor].sum(dtype=np.float64) if p < 1 and floor > 0 else 1.0
    # All tokens below (1 - p) / V hold less than 1 - p together, so the limit of top-p is not among them.
    floor = max(floor, np.float32(0.9 * (1 - p) * mass / V), np.float32(params.min_p or 0) * probs.max())
    if floor > 0:
        kept = probs >= floor
        if not kept.any():
            return 0  # not finite numbers, which the caller refuses
        if p < 1:
            limit, equal = _top_p_limit(probs[kept], p * mass)
            kept = probs >= limit
            kept[np.flatnonzero(probs == limit)[equal:]] = False
        probs = np.where(kept, probs, np.float32(0))
    # First a block of tokens, then one in it: in float64, and without a sum for each token.
    sums = np.add.reduceat(probs.astype(np.float64), range(0, V, _BLOCK))
    cumulated = sums.cumsum()
    point = uniform * cumulated[-1]
    block = _first_above(cumulated, point)
    inside = probs[_BLOCK * block : _BLOCK * (block + 1)].astype(np.float64).cumsum()
    return _BLOCK * block + _first_above(inside, point - (cumulated[block - 1] if block else 0.0))


def _top_p_limit(probs: np.ndarray, p: float) -> tuple[np.float32, int]:
    """The least of the likeliest probabilities that together hold p, and how many equal to it are among them.

    Of many, all are counted by their first bits, and only those of one class are sorted.
    """
    above = 0.0
    if len(probs) > _BEST:
        classes = probs.view(np.int32) >> 14  # in the order of the numbers, since these are positive
        lowest = int(classes.min())
        masses = np.bincount(classes - lowest, weights=probs)[::-1]
        before = masses.cumsum() - masses
        last = np.count_nonzero(before < p) - 1
        above, probs = before[last], probs[classes == lowest + len(masses) - 1 - last]
    ordered = np.sort(probs)[::-1].astype(np.float64)
    count = max(1, int(np.count_nonzero(above + ordered.cumsum() - ordered < p)))
    limit = ordered[count - 1]
    return np.float32(limit), int(np.count_nonzero(ordered[:count] == limit))


def _first_above(cumulated: np.ndarray, point: float) -> int:
    """Where a cumulated distribution passes a point; where rounding leaves none, the last place with a weight."""
    at = cumulated.searchsorted(point, side="right")
    return int(at if at < len(cumulated) else cumulated.searchsorted(cumulated[-1]))
