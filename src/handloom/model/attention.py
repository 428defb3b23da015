"""Causal multi-head self-attention: tokens look back at tokens, never ahead.

Two implementations with the same numbers: `eager` spells out the softmax; `sdpa` is PyTorch's fused kernel, which
never stores the (T, S) matrix. Tests hold them together. `AttentionCore` takes whichever is quicker.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handloom.model.config import GPTConfig
from handloom.model.kv_cache import LayerCache


class AttentionCore(nn.Module):
    """q, k, v -> z, the step between the projections: softmax(scale * q k^T) v, by either implementation.

    A pre-hook on it is given q (B, H, T, D), k and v (B, H, S, D) and the mask; its output is z (B, H, T, D). The
    eager one passes its scores and its pattern, (B, H, T, S), through modules of those names.

    Args:
        scale: what the scores are multiplied by.
        dropout: probability of dropping an attention weight while training.
    """

    def __init__(self, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.implementation: Literal["sdpa", "eager"] | None = None
        """`sdpa` for PyTorch's kernel, `eager` for the softmax spelled out, None for whichever is quicker."""
        self.dropout = nn.Dropout(dropout)
        self.scores, self.pattern = nn.Identity(), nn.Identity()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, H, T, D), twice (B, H, S, D), and the mask as `eager_attention` takes it -> (B, H, T, D)."""
        sdpa = sdpa_is_faster(q, k) if self.implementation is None else self.implementation == "sdpa"
        if sdpa:
            dropout = self.dropout.p if self.training else 0.0
            return sdpa_attention(q, k, v, dropout=dropout, scale=self.scale, mask=mask)
        scores = self.scores(attention_scores(q, k, self.scale, mask))  # (B, H, T, S)
        pattern = self.pattern(scores.softmax(dim=-1))  # (B, H, T, S)
        return self.dropout(pattern).to(v.dtype) @ v  # (B, H, T, D)


class Attention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values; `layer` counts blocks from 0.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2; masked as in GPT.
    """

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.core = AttentionCore(config.attention_scale(layer), config.dropouts.attention)
        self.out = nn.Linear(config.embed_dim, config.embed_dim)
        self.out_dropout = nn.Dropout(config.dropouts.residual)

    def forward(self, x: Tensor, cache: LayerCache | None = None, mask: Tensor | None = None) -> Tensor:
        """Mix each position with those before it: (B, T, C) -> (B, T, C).

        Args:
            x: (B, T, C).
            cache: keys and values of earlier positions; those of `x` are added to it.
            mask: (B, 1, T, S) bool, where looking is allowed; the causal one if not given.
        """
        B, T, C = x.shape
        q, k, v = self.qkv(x).split(C, dim=-1)  # each (B, T, C)
        q = q.view(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, H, T, D)
        k = k.view(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, H, T, D)
        v = v.view(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, H, T, D)
        if cache is not None:
            k, v = cache.update(k, v)  # each (B, H, S, D)
        z = self.core(q, k, v, mask)  # (B, H, T, D)
        z = z.transpose(1, 2).reshape(B, T, C)  # (B, T, C)
        return self.out_dropout(self.out(z))  # (B, T, C)


def sdpa_is_faster(q: Tensor, k: Tensor) -> bool:
    """Whether to prefer `sdpa`: always, but for training on short windows in bfloat16.

    There it takes about twice as long, forward and backward, as `eager`
    (`benchmarks/attention.py`); from about 512 positions on the (T, S) matrix costs more.
    """
    return not (q.dtype == torch.bfloat16 and q.requires_grad and k.shape[-2] <= 256)


def causal_mask(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """Which of S positions each of the last T may look at, itself and all before it: (T, S) bool."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(diagonal=S - T)


def segment_mask(segment_ids: Tensor) -> Tensor:
    """The causal mask for rows of several texts, none of which looks into another.

    Args:
        segment_ids: (B, T) int64, the same number for the tokens of one text.

    Returns:
        (B, 1, T, T) bool, True where looking is allowed.
    """
    T = segment_ids.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]  # (B, T, T)
    return (same & causal_mask(T, T, segment_ids.device))[:, None]  # (B, 1, T, T)


def segment_offsets(segment_ids: Tensor) -> Tensor:
    """Added to a token's position in its row, it gives the position in its own text: (B, T), at most 0."""
    B, T = segment_ids.shape
    places = torch.arange(T, device=segment_ids.device).expand(B, T)  # (B, T)
    begins = torch.ones_like(segment_ids, dtype=torch.bool)  # (B, T)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return -torch.where(begins, places, 0).cummax(dim=1).values  # (B, T)


def attention_scores(q: Tensor, k: Tensor, scale: float | None = None, mask: Tensor | None = None) -> Tensor:
    """scale * q k^T, minus infinity where looking is not allowed: (B, H, T, S). Arguments as `eager_attention`."""
    T, S = q.shape[-2], k.shape[-2]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ k.transpose(-2, -1) * scale  # (B, H, T, S)
    seen = causal_mask(T, S, q.device) if mask is None else mask
    return scores.masked_fill(~seen, float("-inf"))


def attention_weights(q: Tensor, k: Tensor, scale: float | None = None, mask: Tensor | None = None) -> Tensor:
    """How much each of T queries looks at each of S positions: (B, H, T, S), each row of sum 1."""
    return attention_scores(q, k, scale, mask).softmax(dim=-1)  # (B, H, T, S)


def eager_attention(
    q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """softmax(scale * q k^T) v, written out: (B, H, T, D).

    Args:
        q: (B, H, T, D), the last T of S positions.
        k, v: (B, H, S, D).
        dropout: probability of dropping an attention weight.
        scale: what the scores are multiplied by; 1 / sqrt(D) if not given.
        mask: (B, 1, T, S) bool, where looking is allowed; the causal one if not given.
    """
    weights = F.dropout(attention_weights(q, k, scale, mask), dropout)  # (B, H, T, S)
    return weights.to(v.dtype) @ v  # (B, H, T, D)


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """The same as `eager_attention`, by PyTorch's fused kernel.

    The kernel's own causal mask starts at the top left, so it is right only when T = S. One query sees everything
    and needs no mask. Anything between gets the mask spelled out.
    """
    T, S = q.shape[-2], k.shape[-2]
    if mask is None and T == S:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=T > 1, scale=scale)
    if mask is None and T > 1:
        mask = causal_mask(T, S, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
