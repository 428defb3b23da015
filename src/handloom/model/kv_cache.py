"""Keys and values of the tokens already read, so that each new token costs one step.

The cache is handed to the model, never stored in it: one model serves many conversations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handloom.errors import ModelError
from handloom.model.config import GPTConfig


class LayerCache:
    """One block's share of the cache: two buffers and how much of them is filled."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys  # (B, H, capacity, D)
        self.values = values  # (B, H, capacity, D)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values and return all stored so far, as views.

        Args:
            k: (B, H, T, D).
            v: (B, H, T, D).

        Returns:
            keys and values, each (B, H, S, D) with S = stored + T.
        """
        start, end = self.length, self.length + k.shape[-2]
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Preallocated keys and values for every block.

    Reading a slice of what is filled is up to twelve times quicker on a CPU than attending over
    the whole buffer under a mask.

    Args:
        config: the model's shape.
        batch: B, the number of sequences.
        capacity: the most tokens to hold; the model's context if not given.
        dtype: of the buffers.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch: int = 1,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.capacity = config.context if capacity is None else min(capacity, config.context)
        shape = (batch, config.heads, self.capacity, config.head_width)
        self.layers = [
            LayerCache(torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype))
            for _ in range(config.layers)
        ]

    @property
    def length(self) -> int:
        """How many tokens have been read."""
        return self.layers[0].length

    def require(self, tokens: int) -> None:
        """Make sure that `tokens` more fit.

        Raises:
            ModelError: when they do not.
        """
        if self.length + tokens > self.capacity:
            raise ModelError(
                f"The cache holds {self.length} of {self.capacity} tokens and cannot take {tokens} more.",
                "Start a new cache with the last part of the text, or ask for fewer tokens.",
            )

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        for layer in self.layers:
            layer.length = min(layer.length, length)
