"""What reads tokens: a GPT, or something that stands for one. Training and evaluation ask for no more than this."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from handloom.model.kv_cache import KVCache
from handloom.model.loss import TrainableTokens


class Backbone(Protocol):
    """Turns tokens into hidden states, and names the matrix that turns those into scores."""

    @property
    def training(self) -> bool:
        """Whether dropout is on."""

    @property
    def head_weight(self) -> Tensor:
        """(V, C)."""

    @property
    def trainable_tokens(self) -> TrainableTokens | None:
        """The rows of that matrix that learn, if only some do."""

    def hidden(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        segments: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """(B, T) -> (B, T, C), after the final LayerNorm."""

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on, or off."""

    def eval(self) -> Any:
        """Switch dropout off."""
