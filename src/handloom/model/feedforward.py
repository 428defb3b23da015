"""The position-wise network: widen, bend, narrow. Each token alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from handloom.model.config import GPTConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


class FeedForward(nn.Module):
    """Linear -> GELU -> Linear, with GELU in the tanh form that GPT-2 was trained with.

    Other models put GELU itself or ReLU there: `GPTConfig.activation`.

    Source: Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.embed_dim, config.feedforward_dim)
        self.bend = _ACTIVATIONS[config.activation]
        self.down = nn.Linear(config.feedforward_dim, config.embed_dim)
        self.dropout = nn.Dropout(config.dropouts.residual)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.bend(self.up(x))  # (B, T, 4C)
        return self.dropout(self.down(x))  # (B, T, C)
