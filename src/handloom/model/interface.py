"""What training and evaluation need of a model: hidden states of tokens, and the head that makes logits of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from handloom.model.config import GPTConfig
from handloom.model.kv_cache import KVCache


class Backbone(Protocol):
    """A GPT, or something that stands for one."""

    @property
    def config(self) -> GPTConfig:
        """Its shape."""

    @property
    def training(self) -> bool:
        """Whether dropout is on."""

    @property
    def device(self) -> torch.device:
        """Where its tokens have to be."""

    @property
    def lm_head(self) -> nn.Module:
        """(..., C) -> logits (..., V)."""

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, segment_ids: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, T, C), after the final LayerNorm."""

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on, or off."""

    def eval(self) -> Any:
        """Switch dropout off."""


@contextmanager
def evaluating(model: Backbone) -> Iterator[None]:
    """Dropout is off inside, and afterwards as it was, also after an error."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
