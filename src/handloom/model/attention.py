"""Causal multi-head self-attention: tokens look back at tokens, never ahead.

Two ways to the same numbers: the explicit path spells out the softmax; the fused path asks
PyTorch's kernel, which never stores the (T, S) matrix. Tests hold them together. Left to itself,
the model takes whichever is quicker.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handloom.model.config import GPTConfig
from handloom.model.kv_cache import LayerCache


class Attention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2; masked as in GPT.

    Args:
        config: the shape of the model.
        layer: which block this stands in, counted from 0.
    """

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = config.attention_scale(layer)
        self.dropout = config.dropouts.attention
        self.fused: bool | None = None  # None: whichever is quicker
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.out = nn.Linear(config.embed_dim, config.embed_dim)
        self.out_dropout = nn.Dropout(config.dropouts.residual)

    def forward(self, x: Tensor, cache: LayerCache | None = None, mask: Tensor | None = None) -> Tensor:
        """Mix each position with those before it.

        Args:
            x: (B, T, C).
            cache: keys and values of earlier positions; those of `x` are added to it.
            mask: (B, 1, T, T) bool, where looking is allowed; the causal one if not given. A cache brings its own.

        Returns:
            (B, T, C).
        """
        B, T, C = x.shape
        q, k, v = self.qkv(x).split(C, dim=-1)  # each (B, T, C)
        q = q.view(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, H, T, D)
        k = k.view(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, H, T, D)
        v = v.view(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, H, T, D)
        if cache is not None:
            k, v = cache.append(k, v)  # each (B, H, S, D)
            mask = cache.mask(T)
        fused = fused_is_faster(q, k) if self.fused is None else self.fused
        attend = fused_attention if fused else explicit_attention
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, dropout, self.scale, mask)  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, T, C)
        return self.out_dropout(self.out(y))  # (B, T, C)


def fused_is_faster(q: Tensor, k: Tensor) -> bool:
    """Whether to prefer the fused kernel: always, but for training on short windows in bfloat16.

    There it takes about twice as long, forward and backward, as the explicit path
    (`benchmarks/attention.py`); from about 512 positions on the (T, S) matrix costs more.
    """
    return not (q.dtype == torch.bfloat16 and q.requires_grad and k.shape[-2] <= 256)


def causal_mask(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """Which of S positions each of the last T may look at: itself and all before it.

    Returns:
        (T, S) bool, True where looking is allowed.
    """
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(diagonal=S - T)


def segment_mask(segments: Tensor) -> Tensor:
    """The causal mask for rows of several texts: nobody looks into another text.

    Args:
        segments: (B, T) int64, the same number for the tokens of one text.

    Returns:
        (B, 1, T, T) bool, True where looking is allowed.
    """
    T = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
    return (same & causal_mask(T, T, segments.device))[:, None]  # (B, 1, T, T)


def segment_offsets(segments: Tensor) -> Tensor:
    """What to add to a token's place in its row to make it the place in its own text: (B, T), at most 0."""
    B, T = segments.shape
    places = torch.arange(T, device=segments.device).expand(B, T)  # (B, T)
    begins = torch.ones_like(segments, dtype=torch.bool)  # (B, T)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return -torch.where(begins, places, 0).cummax(dim=1).values  # (B, T)


def attention_weights(q: Tensor, k: Tensor, scale: float | None = None, mask: Tensor | None = None) -> Tensor:
    """How much each of T queries looks at each of S positions: softmax(scale * q k^T), masked.

    Args:
        q: (B, H, T, D), the last T of S positions.
        k: (B, H, S, D).
        scale: what the scores are multiplied by; 1 / sqrt(D) if not given.
        mask: (B, 1, T, S) bool, where looking is allowed; the causal one if not given.

    Returns:
        (B, H, T, S), each row of sum 1.
    """
    T, S = q.shape[-2], k.shape[-2]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ k.transpose(-2, -1) * scale  # (B, H, T, S)
    seen = causal_mask(T, S, q.device) if mask is None else mask
    return scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)  # (B, H, T, S)


def explicit_attention(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, written out.

    Args:
        q: (B, H, T, D), the last T of S positions.
        k: (B, H, S, D).
        v: (B, H, S, D).
        dropout: probability of dropping an attention weight.
        scale: what the scores are multiplied by; 1 / sqrt(D) if not given.
        mask: (B, 1, T, S) bool, where looking is allowed; the causal one if not given.

    Returns:
        (B, H, T, D).
    """
    weights = F.dropout(attention_weights(q, k, scale, mask), dropout)  # (B, H, T, S)
    return weights.to(v.dtype) @ v  # (B, H, T, D)


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """The same as `explicit_attention`, by PyTorch's fused kernel.

    The kernel's own causal mask starts at the top left, so it is right only when T = S. One query
    sees everything and needs no mask. Anything between gets the mask spelled out.
    """
    T, S = q.shape[-2], k.shape[-2]
    if mask is None and T == S:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=T > 1, scale=scale)
    if mask is None and T > 1:
        mask = causal_mask(T, S, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
