"""Texts that are written side by side, of whatever lengths; a single text is a batch of one.

Reads what has not been read yet and says what the model thinks of the next token; who chooses it is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from handloom.errors import ModelError
from handloom.model.gpt import GPT
from handloom.model.kv_cache import KVCache


class Batch:
    """Rows of text, each with its own length and its own place in the cache.

    A prompt is read in one pass, together with those of the same length; after that all rows read one token a
    step together. A row that would pass the context goes on from its last half, when its own time has come: a
    row's scores are those it would have alone, up to the rounding of sums over another number of columns.

    Args:
        model: in evaluation mode.
        prompts: at least one token each.
        room: how many tokens will be added at most.
    """

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], room: int) -> None:
        self.model = model
        self.texts = [list(prompt) for prompt in prompts]
        self.prompts = [len(prompt) for prompt in prompts]
        """How many tokens at the beginning of each text are its prompt."""
        self._capacity = min(model.config.context_length, max(self.prompts) + room)
        self._cache = self._new_cache(len(prompts))
        # Where the part of each text begins that is in the cache, or will be.
        self._windows = [window_start(length, model.config.context_length) for length in self.prompts]

    @torch.inference_mode()
    def scores(self) -> Tensor:
        """The scores (B, V) of each row's next token, over all ids of the model.

        Raises:
            ModelError: when they are no finite numbers.
        """
        for row, text in enumerate(self.texts):
            if len(text) - self._windows[row] > self.model.config.context_length:
                self._windows[row] = window_start(len(text), self.model.config.context_length)
                self._cache.forget(row)
        anew = [row for row, length in enumerate(self._cache.lengths) if length == 0]
        together = len(anew) < len(self.texts)  # the others' next token is read with the last one of these
        found: list[Tensor | None] = [None] * len(self.texts)
        for rows in self._equally_long(anew):
            tokens = torch.tensor([self.texts[row][self._windows[row] :] for row in rows])  # (G, T)
            if not together:
                for row, hidden in zip(rows, self._read(rows, tokens), strict=True):
                    found[row] = hidden
            elif tokens.shape[1] > 1:
                self._read(rows, tokens[:, :-1])
        if together:
            last = torch.tensor([text[-1:] for text in self.texts])  # (B, 1)
            hidden = self.model.hidden(last, self._cache)[:, -1]  # (B, C)
        else:
            hidden = torch.stack([row for row in found if row is not None])  # (B, C)
        logits = self.model.unembed(hidden)  # (B, V): only the last position needs logits
        if not logits.isfinite().all():
            raise ModelError(
                "The model's scores are not finite numbers, so no token can be chosen.",
                "Its weights are damaged; use an earlier checkpoint.",
            )
        return logits

    def extend(self, tokens: Sequence[int]) -> None:
        """Append one token to each row."""
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; a row may come several times, or not at all."""
        self.texts = [list(self.texts[row]) for row in rows]
        self.prompts = [self.prompts[row] for row in rows]
        self._windows = [self._windows[row] for row in rows]
        self._cache.keep(rows)

    def _read(self, rows: list[int], tokens: Tensor) -> Tensor:
        """Read (G, T) tokens as the whole of what `rows` hold; the last hidden states, (G, C)."""
        if len(rows) == len(self.texts):
            return self.model.hidden(tokens, self._cache)[:, -1]
        part = self._new_cache(len(rows), tokens.shape[1])
        hidden = self.model.hidden(tokens, part)[:, -1]  # (G, C)
        self._cache.put(rows, part)
        return hidden

    def _equally_long(self, rows: Iterable[int]) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(len(self.texts[row]) - self._windows[row], []).append(row)
        return list(groups.values())

    def _new_cache(self, rows: int, capacity: int | None = None) -> KVCache:
        size = self._capacity if capacity is None else capacity
        return KVCache(self.model.config, rows, size, self.model.dtype)


def window_start(length: int, context_length: int) -> int:
    """The first token that is read of a text: of one beyond the context its last half context.

    So a good stretch fits behind it before that has to happen again.
    """
    return length - max(1, context_length // 2) if length > context_length else 0
