"""Some rows of the token embedding learn, which no update of the blocks (`lora`) reaches; the rest of it is frozen.

    row of token t = learned[i] where t = ids[i], else W[t]

The rows lie in the matrix itself while they are in use, and what was there before is kept. Knows no files.

Source: `trainable_token_indices` of Hugging Face's PEFT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handloom.model.gpt import GPT
from handloom.model.loss import TrainableTokens


class TokenDelta(nn.Module):
    """Rows for some tokens, (n) int64, each once, which begin as those of the matrix, (V, C)."""

    def __init__(self, ids: Tensor, matrix: Tensor) -> None:
        super().__init__()
        places = ids.new_full((len(matrix),), len(ids))  # (V), where a token is in the set; n: nowhere
        places[ids] = torch.arange(len(ids), device=ids.device)
        self.ids = nn.Buffer(ids, persistent=False)
        self.was = nn.Buffer(matrix[ids], persistent=False)  # (n, C)
        self.places = nn.Buffer(places, persistent=False)
        self.rows = nn.Parameter(self.was.clone())
        self.weight = 1.0
        """How far the rows are on their way from what they were to what was learned: 1 all of it, 0 not at all."""


class TrainableTokensEmbedding(nn.Module):
    """A token embedding some of whose rows are exchanged, by sets with names. Where sets share a token, changes add."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        base.weight.data = base.weight.data.clone()  # it is written into: it may lie in a file
        self.token_deltas: dict[str, TokenDelta] = nn.ModuleDict()  # type: ignore[assignment]
        self.merged = False
        """Whether the rows in place are to stay when the sets are forgotten."""

    @property
    def weight(self) -> Tensor:
        """The whole matrix with the rows in place, (V, C)."""
        self._put()
        weight: Tensor = self.base.weight
        for rows in self._learning():
            weight = _Exchanged.apply(weight, rows.rows, rows.ids, rows.weight)
        return weight

    @property
    def trainable_tokens(self) -> TrainableTokens | None:
        """The rows that learn, if a single set does and is taken whole: so that the loss computes no other gradient."""
        learning = self._learning()
        if len(learning) != 1 or learning[0].weight != 1:
            return None
        return TrainableTokens(learning[0].rows, learning[0].ids)

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., C)."""
        self._put()
        found = F.embedding(tokens, self.base.weight)  # (..., C)
        for rows in self._learning():  # adds nothing, and leads the gradient back to the rows
            nothing = rows.weight * (rows.rows - rows.rows.detach())  # (n, C)
            found = found + F.embedding(rows.places[tokens], F.pad(nothing, (0, 0, 0, 1)))
        return found

    def active(self) -> list[TokenDelta]:
        """The sets of which something is taken."""
        return [rows for rows in self.token_deltas.values() if rows.weight]

    def _learning(self) -> list[TokenDelta]:
        return [rows for rows in self.active() if rows.rows.requires_grad and torch.is_grad_enabled()]

    def insert_adapter(self, name: str, ids: Tensor) -> TokenDelta:
        """Add a set for these tokens, (n) int64, whose rows are those that are there."""
        self.unmerge()
        rows = TokenDelta(ids, self.base.weight.data)
        self.token_deltas[name] = rows.train(self.training)
        return rows

    def merge(self) -> None:
        """Leave the rows in place, as they are now, until `unmerge`."""
        self._put()
        self.merged = True

    def unmerge(self) -> None:
        """Put the rows back that were there, bit for bit; those of sets in use come back when they are asked for."""
        self.merged = False
        for rows in self.token_deltas.values():
            self.base.weight.data[rows.ids] = rows.was

    def _put(self) -> None:
        if self.merged:
            return
        self.unmerge()
        weight = self.base.weight.data
        for rows in self.active():
            change = weight[rows.ids] - rows.was  # 0, unless an earlier set has the token too
            weight[rows.ids] = rows.was.lerp(rows.rows.detach(), rows.weight) + change


class _Exchanged(torch.autograd.Function):
    """A matrix that has the rows in place already, for the way back: their gradient is cut out of the matrix's."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, ids: Tensor, share: float) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight = share
        return weight.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        whole = gradient if ctx.needs_input_grad[0] else None
        return whole, gradient[ids] * ctx.weight, None, None


def insert_adapter(model: GPT, name: str, ids: Tensor) -> TokenDelta:
    """Let the rows of these tokens, (n) int64, each once, be exchanged in a model, by a new set of that name."""
    embedding: nn.Module = model.embedding.token_embedding
    if not isinstance(embedding, TrainableTokensEmbedding):
        embedding = TrainableTokensEmbedding(model.embedding.token_embedding)
        model.embedding.register_module("token_embedding", embedding)
    return embedding.insert_adapter(name, ids)


def token_deltas(model: GPT) -> dict[str, TokenDelta]:
    """The sets of rows that a model has, by name."""
    embedding = model.embedding.token_embedding
    return dict(embedding.token_deltas.items()) if isinstance(embedding, TrainableTokensEmbedding) else {}


def unload(model: GPT) -> None:
    """Forget all sets; unless they are merged, the matrix is then what it was."""
    embedding = model.embedding.token_embedding
    if isinstance(embedding, TrainableTokensEmbedding):
        if not embedding.merged:
            embedding.unmerge()
        model.embedding.token_embedding = embedding.base
