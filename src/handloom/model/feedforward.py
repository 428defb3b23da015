"""The position-wise MLP: Linear, activation, Linear, applied to each position by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from handloom.model.config import GPTConfig

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}


class FeedForward(nn.Module):
    """Linear -> activation -> Linear; GPT-2's activation is GELU in its tanh form (`GPTConfig.activation`).

    Source: Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.embed_dim, config.feedforward_dim)
        self.activation = _ACTIVATIONS[config.activation]()
        self.down = nn.Linear(config.feedforward_dim, config.embed_dim)
        self.dropout = nn.Dropout(config.dropouts.residual)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.activation(self.up(x))  # (B, T, 4C)
        return self.dropout(self.down(x))  # (B, T, C)
