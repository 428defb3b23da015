"""One Transformer block: attention, then a position-wise MLP; pre-norm, residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from handloom.model.attention import Attention
from handloom.model.config import GPTConfig
from handloom.model.feedforward import FeedForward
from handloom.model.kv_cache import LayerCache


class Block(nn.Module):
    """Two residual steps, each normalized before it acts (pre-LayerNorm, as in GPT-2).

    Args:
        config: the shape of the model.
        layer: which block of the model this is, counted from 0.
    """

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attention = Attention(config, layer)
        self.residual = nn.Identity()  # a place where the stream between the two steps can be read and replaced
        self.feedforward_norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.feedforward = FeedForward(config)
        self.checkpointing = False
        """Whether activations are computed again in the backward pass instead of kept (gradient checkpointing)."""

    def forward(self, x: Tensor, cache: LayerCache | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); cache and mask as `Attention` takes them."""
        if self.checkpointing and torch.is_grad_enabled():
            computed: Tensor = checkpoint(self._compute, x, cache, mask, use_reentrant=False)  # (B, T, C)
            return computed
        return self._compute(x, cache, mask)

    def _compute(self, x: Tensor, cache: LayerCache | None, mask: Tensor | None) -> Tensor:
        x = self.residual(x + self.attention(self.attention_norm(x), cache, mask))  # (B, T, C)
        return x + self.feedforward(self.feedforward_norm(x))  # (B, T, C)
