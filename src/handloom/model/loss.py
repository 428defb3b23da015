"""How surprised the model is by the next token: cross entropy, a few hundred tokens at a time.

The full logits of a batch, (B * T, V), are the largest tensor of a whole training step, and
autograd would keep two copies of them. Here each chunk of rows turns into its loss and its
gradients at once and is then forgotten. It stays within the processor's cache meanwhile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE_INDEX = -1
"""A target that does not count: padding, or a token that was counted already."""

CHUNK_TOKENS = 256
"""Rows of logits alive at a time."""


class TrainableTokens(NamedTuple):
    """Rows of the head's matrix that learn, while the rest of it is frozen. The matrix has them in place already."""

    rows: Tensor
    """(n, C)"""
    ids: Tensor
    """(n) int64, which rows they are."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(hidden @ weight^T)[target], with its gradients taken on the way forward.

    The gradient of a row's loss by its logits is softmax(logits) - onehot(target). Since the loss
    is a sum, the incoming gradient is one number, which backward only has to multiply in. A frozen
    side, as the head in most fine-tuning, costs nothing; of one that learns in some rows, only those are reckoned.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        learned: Tensor | None,
        ids: Tensor | None,
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        learned_gradient = None if learned is None else torch.zeros_like(learned)  # (n, C)
        hidden_gradient = torch.empty_like(hidden) if to_hidden else None  # (N, C)
        weight_gradient = torch.zeros_like(weight) if to_weight else None  # (V, C)
        weight = weight.to(dtype)
        for start in range(0, len(hidden), CHUNK_TOKENS):
            rows = slice(start, start + CHUNK_TOKENS)
            h, y = hidden[rows].to(dtype), targets[rows]  # (n, C), (n)
            counts = y != IGNORE_INDEX  # (n)
            y = y.clamp(min=0)[:, None]  # (n, 1)
            log_p = F.log_softmax(F.linear(h, weight).float(), dim=-1)  # (n, V)
            total -= (log_p.gather(1, y)[:, 0] * counts).sum()
            slope = log_p.exp_().scatter_add_(1, y, log_p.new_full(y.shape, -1.0))  # (n, V)
            slope = slope.to(dtype) if counts.all() else slope.mul_(counts[:, None]).to(dtype)
            if hidden_gradient is not None:
                hidden_gradient[rows] = slope @ weight  # (n, C)
            if weight_gradient is not None:
                weight_gradient += slope.T @ h  # (V, C)
            if learned_gradient is not None:
                learned_gradient += slope[:, ids].T @ h  # (n, C)
        ctx.gradients = hidden_gradient, weight_gradient, learned_gradient
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # In place, since the one for the weight is as large as the embedding; so there is no second way back.
        by_hidden, by_weight, by_learned = (None if g is None else g.mul_(gradient) for g in ctx.gradients)
        del ctx.gradients
        return by_hidden, by_weight, None, None, by_learned, None


def next_token_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, learned: TrainableTokens | None = None
) -> tuple[Tensor, int]:
    """Total surprise, in nats, and the number of tokens it is the total of.

    A sum and a count, not a mean: gradient accumulation and validation over batches of unequal size
    both need to divide once, at the end, by all their tokens.

    Args:
        hidden: (B, T, C), from `GPT.hidden`.
        weight: (V, C), `GPT.head_weight`.
        targets: (B, T) int64, the token that follows each position, or `IGNORE_INDEX`.
        learned: `GPT.trainable_tokens`: all of the weight that gets a gradient, if not None.

    Returns:
        the summed loss (a scalar tensor, float32) and how many targets counted.
    """
    rows, flat = hidden.flatten(0, 1), targets.flatten()  # (B*T, C), (B*T)
    count = int((flat != IGNORE_INDEX).sum())
    mixed = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if mixed else rows.dtype
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad):
            weight, *learns = _apart(weight, learned)
            return _LinearCrossEntropy.apply(rows, weight, flat, dtype, *learns), count
        weight = weight.to(dtype)
        total = rows.new_zeros((), dtype=torch.float32)
        for h, y in zip(rows.split(CHUNK_TOKENS), flat.split(CHUNK_TOKENS), strict=True):
            logits = F.linear(h.to(dtype), weight).float()  # (n, V)
            total += F.cross_entropy(logits, y, ignore_index=IGNORE_INDEX, reduction="sum")
    return total, count


def _apart(weight: Tensor, learned: TrainableTokens | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The weight, the rows of it that learn alone, and which those are."""
    return (weight, None, None) if learned is None else (weight.detach(), learned.rows, learned.ids)


class _TokenNLL(torch.autograd.Function):
    """The same loss row by row; its gradient is taken on the way back, where each row's share is known.

    For that the logits are computed a second time. They are never kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        learned: Tensor | None,
        ids: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets, learned, ids)
        ctx.dtype = dtype
        used = weight.to(dtype)
        losses = [
            F.cross_entropy(F.linear(h.to(dtype), used).float(), y, ignore_index=IGNORE_INDEX, reduction="none")
            for h, y in zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
        ]
        return torch.cat(losses)  # (N)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, learned, ids = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        learned_gradient = None if learned is None else torch.zeros_like(learned)  # (n, C)
        hidden_gradient = torch.empty_like(hidden) if to_hidden else None  # (N, C)
        weight_gradient = torch.zeros_like(weight) if to_weight else None  # (V, C)
        used = weight.to(ctx.dtype)
        for start in range(0, len(hidden), CHUNK_TOKENS):
            rows = slice(start, start + CHUNK_TOKENS)
            h, y = hidden[rows].to(ctx.dtype), targets[rows]  # (n, C), (n)
            share = (gradient[rows] * (y != IGNORE_INDEX))[:, None]  # (n, 1)
            slope = F.softmax(F.linear(h, used).float(), dim=-1)  # (n, V)
            slope.scatter_add_(1, y.clamp(min=0)[:, None], slope.new_full((len(y), 1), -1.0))
            slope = slope.mul_(share).to(ctx.dtype)
            if hidden_gradient is not None:
                hidden_gradient[rows] = slope @ used  # (n, C)
            if weight_gradient is not None:
                weight_gradient += slope.T @ h  # (V, C)
            if learned_gradient is not None:
                learned_gradient += slope[:, ids].T @ h  # (n, C)
        return hidden_gradient, weight_gradient, None, None, learned_gradient, None


def token_nll(hidden: Tensor, weight: Tensor, targets: Tensor, learned: TrainableTokens | None = None) -> Tensor:
    """Surprise at each token, in nats; `next_token_loss` is its sum.

    For what needs more than the sum, such as the likelihoods of single texts. With gradients it computes
    the logits twice, once forward and once backward.

    Args:
        hidden: (B, T, C), from `GPT.hidden`.
        weight: (V, C), `GPT.head_weight`.
        targets: (B, T) int64, the token that follows each position, or `IGNORE_INDEX`.
        learned: `GPT.trainable_tokens`: all of the weight that gets a gradient, if not None.

    Returns:
        (B, T) float32, 0 where there is nothing to predict.
    """
    rows, flat = hidden.flatten(0, 1), targets.flatten()  # (B*T, C), (B*T)
    mixed = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if mixed else rows.dtype
    with torch.autocast("cpu", enabled=False):
        weight, *learns = _apart(weight, learned)
        losses: Tensor = _TokenNLL.apply(rows, weight, flat, dtype, *learns)
    return losses.view(targets.shape)  # (B, T)
