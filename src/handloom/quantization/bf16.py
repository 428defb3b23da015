"""Matrices that do not learn may be kept in bfloat16: half the memory, and no conversion at every step.

Knows no files, no optimizer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handloom.model.gpt import GPT


class BF16Linear(nn.Linear):
    """A linear layer whose matrix is in bfloat16, and computes in whatever its input is in."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return F.linear(x, use_dtype_of(x, self.weight), self.bias)


def use_dtype_of(x: Tensor, weight: Tensor) -> Tensor:
    """The matrix in the type that x is in; autocast converts by itself where it is on."""
    return weight if torch.is_autocast_enabled("cpu") else weight.to(x.dtype)


def to_bf16(model: GPT) -> None:
    """Round the matrices of all blocks to bfloat16, one after another; norms, biases and embeddings stay float32.

    Rounding changes a number by up to 0.4 %: the model is then a close relative of what it was, not the same.

    Args:
        model: edited in place; nothing of it may be learning.
    """
    for block in model.blocks:
        for name, layer in list(block.named_modules()):
            if type(layer) is not nn.Linear:
                continue
            kept = BF16Linear.__new__(BF16Linear)
            nn.Module.__init__(kept)
            kept.in_features, kept.out_features = layer.in_features, layer.out_features
            kept.weight = nn.Parameter(layer.weight.detach().to(torch.bfloat16), requires_grad=False)
            kept.bias = layer.bias
            parent, _, own = name.rpartition(".")
            setattr(block.get_submodule(parent) if parent else block, own, kept)
