"""Token ids -> vectors: what the token is, plus where it stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handloom.errors import ModelError
from handloom.model.config import GPTConfig
from handloom.model.loss import TrainableTokens


class Embedding(nn.Module):
    """Sum of a learned vector for each token and a learned vector for each position.

    Source: learned positions as in GPT (Radford et al. 2018).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.token_embedding = _empty(config.vocab_size, config.embed_dim)
        self.position_embedding = _empty(config.context_length, config.embed_dim)
        self.dropout = nn.Dropout(config.dropouts.embedding)

    def forward(self, tokens: Tensor, start: int | Tensor = 0) -> Tensor:
        """Embed `tokens`, the first of which stands at position `start`.

        Args:
            tokens: (B, T) int64.
            start: how many positions lie before them in the cache; (B, 1) where that differs between rows, and
                (B, T) where rows hold several texts.

        Returns:
            (B, T, C).
        """
        positions = start + torch.arange(tokens.shape[1], device=tokens.device)  # (T) or (B, T)
        meaning = self.token_embedding(tokens)  # (B, T, C)
        place = self.position_embedding(positions)  # (T, C) or (B, T, C)
        return self.dropout(meaning + place)  # (B, T, C)


class TiedHead(nn.Module):
    """The output head of a tied model: its matrix is the token embedding, and it has no parameters of its own.

    Source: Press & Wolf 2017, "Using the Output Embedding to Improve Language Models".
    """

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple, so that its parameters are registered once

    @property
    def weight(self) -> Tensor:
        """The token embedding's own matrix, (V, C)."""
        return self._embedding[0].token_embedding.weight

    @property
    def trainable_tokens(self) -> TrainableTokens | None:
        """The only rows of the matrix that are trained, if not all are (`finetuning.trainable_tokens`)."""
        return getattr(self._embedding[0].token_embedding, "trainable_tokens", None)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., C) -> logits (..., V)."""
        return F.linear(hidden, self.weight)


def _empty(rows: int, width: int) -> nn.Embedding:
    """An embedding that nothing was drawn for: `GPT.initialize` does that, or a checkpoint brings its weights.

    PyTorch's own drawing costs a second where weights are only announced (device `meta`): it imports a compiler.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


def require_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> None:
    """Check ids once, where text becomes ids; a forward pass does not, since that would wait for the device.

    Raises:
        ModelError: for an id outside 0 to `vocab_size` - 1, or one that is not a whole number.
    """
    found = np.asarray(ids)
    if not found.size:
        return
    low, high = found.min(), found.max()
    if found.dtype.kind not in "iu" or low < 0 or high >= vocab_size:
        raise ModelError(
            f"The token ids range from {low} to {high} ({found.dtype}); the model's are the whole numbers from 0 to "
            f"{vocab_size - 1}.",
            "Encode the text with the model's own tokenizer.",
        )
