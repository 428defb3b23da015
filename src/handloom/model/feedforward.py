"""The position-wise network: widen, bend, narrow. Each token alone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from handloom.model.config import GPTConfig


class FeedForward(nn.Module):
    """Linear -> GELU -> Linear, with GELU in the tanh form that GPT-2 was trained with.

    Source: Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.feedforward_width)
        self.down = nn.Linear(config.feedforward_width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = F.gelu(self.up(x), approximate="tanh")  # (B, T, 4C)
        return self.dropout(self.down(x))  # (B, T, C)
