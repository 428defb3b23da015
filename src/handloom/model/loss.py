"""Cross entropy of the next token and the scores of given tokens, a few hundred tokens at a time.

The full logits of a batch, (B * T, V), are the largest tensor of a training step, and autograd would keep two
copies of them. Here each chunk of rows is reduced to its loss and its gradients before the next is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORE_INDEX = -1
"""A target that does not count: padding, or a token that was counted already."""

CHUNK_TOKENS = 256
"""Rows of logits alive at a time."""


class TrainableTokens(NamedTuple):
    """Rows of the head's matrix that are trained while the rest of it is frozen. The matrix has them in place."""

    rows: Tensor
    """(n, C)"""
    ids: Tensor
    """(n) int64, which rows they are."""


class TokenScores(NamedTuple):
    """How a model predicted N given tokens, over all its ids, in float32."""

    nll: Tensor
    """(N,) -log probability of each target in nats; 0 where it is `IGNORE_INDEX`."""
    is_top1: Tensor
    """(N,) bool, whether the target is the most probable token."""
    confidence: Tensor
    """(N,) the probability of the most probable token."""
    top_ids: Tensor
    """(N, K) int64, the K most probable tokens, most probable first."""
    top_logprobs: Tensor
    """(N, K) their log probabilities."""


@torch.no_grad()
def score_logits(logits: Tensor, targets: Tensor, top: int = 0) -> TokenScores:
    """Scores of N targets from the logits that predict them: (N, V), (N) int64, with the `top` alternatives."""
    logprobs = logits.float().log_softmax(dim=-1)  # (N, V)
    best = logits.argmax(dim=-1, keepdim=True)  # (N, 1)
    nll = F.nll_loss(logprobs, targets, ignore_index=IGNORE_INDEX, reduction="none")  # (N)
    values, ids = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)  # each (N, K)
    confidence = logprobs.gather(1, best)[:, 0].exp()  # (N)
    return TokenScores(nll, best[:, 0] == targets, confidence, top_ids=ids, top_logprobs=values)


@torch.no_grad()
def score_tokens(hidden: Tensor, lm_head: nn.Module, targets: Tensor, top: int = 0) -> TokenScores:
    """The one scorer of given tokens: `score_logits`, `CHUNK_TOKENS` rows of logits at a time.

    Likelihoods are the model's own over all its ids, padded ones included; only drawing a token excludes those.

    Args:
        hidden: (N, C), from `GPT.hidden`, the states that predict the targets.
        lm_head: `GPT.lm_head`.
        targets: (N) int64, or `IGNORE_INDEX`.
        top: how many of the most probable tokens to return at each place.
    """
    parts = [score_logits(lm_head(h), y, top) for h, y in _chunks(hidden, targets)]
    return TokenScores(*[torch.cat(each) for each in zip(*parts, strict=True)])


def next_token_loss(hidden: Tensor, lm_head: nn.Module, targets: Tensor) -> tuple[Tensor, int]:
    """Summed cross entropy in nats, a float32 scalar, and the number of targets that count.

    A sum and a count, not a mean: gradient accumulation and validation over batches of unequal size both divide
    once, at the end, by all their tokens. The loss is differentiable once.

    Args:
        hidden: (B, T, C), from `GPT.hidden`.
        lm_head: `GPT.lm_head`; a head without a `weight` is called instead.
        targets: (B, T) int64, the token that follows each position, or `IGNORE_INDEX`.
    """
    rows, flat = hidden.flatten(0, 1), targets.flatten()  # (B*T, C), (B*T)
    count = int((flat != IGNORE_INDEX).sum())
    weight: Tensor | None = getattr(lm_head, "weight", None)
    if weight is None:
        return _called(rows, lm_head, flat).sum(), count
    dtype = _dtype(rows)
    with torch.autocast(rows.device.type, enabled=False):
        if torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad):
            weight, *trained = _trained(weight, lm_head)
            return _LinearCrossEntropy.apply(rows, weight, flat, dtype, *trained), count
        weight = weight.to(dtype)
        total = rows.new_zeros((), dtype=torch.float32)
        for h, y in _chunks(rows, flat):
            logits = F.linear(h.to(dtype), weight).float()  # (n, V)
            total += F.cross_entropy(logits, y, ignore_index=IGNORE_INDEX, reduction="sum")
    return total, count


def token_nll(hidden: Tensor, lm_head: nn.Module, targets: Tensor) -> Tensor:
    """Cross entropy of each token in nats, (B, T) float32, 0 where nothing is predicted; with gradients.

    For what needs more than the sum, such as the likelihoods of single texts. It computes the logits twice, once
    forward and once backward. Arguments as in `next_token_loss`, which is its sum.
    """
    rows, flat = hidden.flatten(0, 1), targets.flatten()  # (B*T, C), (B*T)
    weight: Tensor | None = getattr(lm_head, "weight", None)
    if weight is None:
        return _called(rows, lm_head, flat).view(targets.shape)  # (B, T)
    dtype = _dtype(rows)
    with torch.autocast(rows.device.type, enabled=False):
        weight, *trained = _trained(weight, lm_head)
        losses: Tensor = _TokenNLL.apply(rows, weight, flat, dtype, *trained)
    return losses.view(targets.shape)  # (B, T)


def _dtype(hidden: Tensor) -> torch.dtype:
    """The type in which autocast would multiply."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _chunks(hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)


def _called(hidden: Tensor, lm_head: nn.Module, targets: Tensor) -> Tensor:
    """Cross entropy of each row through any module, (N): autograd keeps the logits."""
    losses = [
        F.cross_entropy(lm_head(h).float(), y, ignore_index=IGNORE_INDEX, reduction="none")
        for h, y in _chunks(hidden, targets)
    ]
    return torch.cat(losses)


def _trained(weight: Tensor, lm_head: nn.Module) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The weight, the only rows of it that get a gradient if not all do, and their ids."""
    tokens: TrainableTokens | None = getattr(lm_head, "trainable_tokens", None)
    return (weight, None, None) if tokens is None else (weight.detach(), tokens.rows, tokens.ids)


class _Gradients:
    """The gradients of hidden states (N, C), of the weight (V, C) and of some of its rows, chunk by chunk.

    What is frozen, as the head in most fine-tuning, costs nothing; of a weight trained in some rows, only those.
    """

    def __init__(self, ctx: Any, hidden: Tensor, weight: Tensor, trained: Tensor | None, ids: Tensor | None) -> None:
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        self.hidden = torch.empty_like(hidden) if to_hidden else None  # (N, C)
        self.weight = torch.zeros_like(weight) if to_weight else None  # (V, C)
        self.trained = None if trained is None else torch.zeros_like(trained)  # (n, C)
        self.ids = ids

    def add(self, rows: slice, grad_logits: Tensor, h: Tensor, weight: Tensor) -> None:
        """Add those of a chunk: gradients of its logits (n, V), its hidden states (n, C), the weight as used."""
        if self.hidden is not None:
            self.hidden[rows] = grad_logits @ weight  # (n, C)
        if self.weight is not None:
            self.weight += grad_logits.T @ h  # (V, C)
        if self.trained is not None:
            self.trained += grad_logits[:, self.ids].T @ h  # (n, C)

    def of_arguments(self) -> tuple[Tensor | None, ...]:
        """In the order of the arguments of both functions below."""
        return self.hidden, self.weight, None, None, self.trained, None


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(hidden @ weight^T)[target]; its gradients are computed in the forward pass.

    The gradient of a row's loss by its logits is softmax(logits) - onehot(target). Since the loss is a sum, the
    incoming gradient is one number, which backward only has to multiply in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        trained: Tensor | None,
        ids: Tensor | None,
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        ctx.gradients = _Gradients(ctx, hidden, weight, trained=trained, ids=ids)
        weight = weight.to(dtype)
        for start in range(0, len(hidden), CHUNK_TOKENS):
            rows = slice(start, start + CHUNK_TOKENS)
            h, y = hidden[rows].to(dtype), targets[rows]  # (n, C), (n)
            counts = y != IGNORE_INDEX  # (n)
            y = y.clamp(min=0)[:, None]  # (n, 1)
            log_p = F.log_softmax(F.linear(h, weight).float(), dim=-1)  # (n, V)
            total -= (log_p.gather(1, y)[:, 0] * counts).sum()
            grad_logits = log_p.exp_().scatter_add_(1, y, log_p.new_full(y.shape, -1.0))  # (n, V)
            grad_logits = (grad_logits if counts.all() else grad_logits.mul_(counts[:, None])).to(dtype)
            ctx.gradients.add(rows, grad_logits, h, weight)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients.of_arguments()
        del ctx.gradients
        # In place, since the one for the weight is as large as the embedding; so there is no second backward.
        return tuple(None if g is None else g.mul_(gradient) for g in gradients)


class _TokenNLL(torch.autograd.Function):
    """The same loss row by row. Backward, where each row's incoming gradient is given, computes the logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        trained: Tensor | None,
        ids: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets, trained, ids)
        ctx.dtype = dtype
        weight = weight.to(dtype)
        losses = [
            F.cross_entropy(F.linear(h.to(dtype), weight).float(), y, ignore_index=IGNORE_INDEX, reduction="none")
            for h, y in _chunks(hidden, targets)
        ]
        return torch.cat(losses)  # (N)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, trained, ids = ctx.saved_tensors
        gradients = _Gradients(ctx, hidden, weight, trained=trained, ids=ids)
        weight = weight.to(ctx.dtype)
        for start in range(0, len(hidden), CHUNK_TOKENS):
            rows = slice(start, start + CHUNK_TOKENS)
            h, y = hidden[rows].to(ctx.dtype), targets[rows]  # (n, C), (n)
            incoming = (gradient[rows] * (y != IGNORE_INDEX))[:, None]  # (n, 1)
            grad_logits = F.softmax(F.linear(h, weight).float(), dim=-1)  # (n, V)
            grad_logits.scatter_add_(1, y.clamp(min=0)[:, None], grad_logits.new_full((len(y), 1), -1.0))
            gradients.add(rows, grad_logits.mul_(incoming).to(ctx.dtype), h, weight)
        return gradients.of_arguments()
