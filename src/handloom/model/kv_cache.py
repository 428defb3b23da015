"""Keys and values of the tokens already read, so that each new token costs one step.

The cache is handed to the model, never stored in it: one model serves many sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handloom.errors import ModelError
from handloom.model.config import GPTConfig


class LayerCache:
    """Keys and values of one block: two buffers, and the lengths of the rows, which all blocks share.

    Rows that are equally long are read and written as slices. Others are written each at its own end, and read
    under a mask.
    """

    def __init__(self, keys: Tensor, values: Tensor, lengths: list[int]) -> None:
        self.keys, self.values = keys, values  # (slots, H, capacity, D) each
        self.lengths = lengths  # of the B rows in use, which are the first of the slots

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of T more tokens, (B, H, T, D) each, behind those of each row.

        Returns:
            views of all that is stored, each (B, H, S, D) with S = T + the tokens of the longest row.
        """
        B, T = k.shape[0], k.shape[-2]
        start, end = max(self.lengths), max(self.lengths) + T
        if min(self.lengths) == start:
            self.keys[:B, :, start:end] = k
            self.values[:B, :, start:end] = v
        else:
            rows = torch.arange(B, device=k.device)[:, None]  # (B, 1)
            places = torch.tensor(self.lengths, device=k.device)[:, None]  # (B, 1)
            places = places + torch.arange(T, device=k.device)  # (B, T)
            self.keys[rows, :, places] = k.transpose(1, 2)  # (B, T, H, D)
            self.values[rows, :, places] = v.transpose(1, 2)  # (B, T, H, D)
        return self.keys[:B, :, :end], self.values[:B, :, :end]


class KVCache:
    """Preallocated keys and values for every block, of rows that join and leave.

    Reading a slice of what is filled is up to twelve times quicker on a CPU than attending over the whole buffer
    under a mask. The rows in use are the first of the slots, so that a row that leaves moves one row at most.

    Args:
        config: the model's shape.
        batch: B, how many sequences there are at first.
        capacity: the most tokens of a row; the model's context if not given. `add_rows` raises it.
        dtype, device: of the buffers; `GPT.new_cache` fills in the model's.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch: int = 1,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self._context_length = config.context_length
        self.capacity = self._within_context(capacity)
        self.lengths = [0] * batch
        """How many tokens of each row have been read."""
        shape = (batch, config.heads, self.capacity, config.head_dim)
        zeros = torch.zeros  # not `empty`: what a mask hides is still multiplied by 0, and must be a number
        self.layers = [
            LayerCache(zeros(shape, dtype=dtype, device=device), zeros(shape, dtype=dtype, device=device), self.lengths)
            for _ in range(config.layers)
        ]

    def __len__(self) -> int:
        """B, the rows in use."""
        return len(self.lengths)

    @property
    def length(self) -> int:
        """How many tokens have been read, in the longest row."""
        return max(self.lengths, default=0)

    @property
    def is_uniform(self) -> bool:
        """Whether all rows are equally long."""
        return min(self.lengths, default=0) == self.length

    @property
    def nbytes(self) -> int:
        """Of all buffers."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    @property
    def end_positions(self) -> Tensor:
        """The place behind the last token of each row, (B, 1)."""
        return torch.tensor(self.lengths, device=self.layers[0].keys.device)[:, None]

    @property
    def next_position(self) -> int | Tensor:
        """Position of the next token: one number, or (B, 1) where rows are not equally long."""
        return self.length if self.is_uniform else self.end_positions

    def mask(self, T: int) -> Tensor | None:
        """Where each of the next T tokens of each row may look, (B, 1, T, S) bool; None where rows are equally long."""
        if self.is_uniform:
            return None
        device = self.layers[0].keys.device
        own = self.end_positions + torch.arange(T, device=device)  # (B, T)
        return (torch.arange(self.length + T, device=device) <= own[:, :, None])[:, None]  # (B, 1, T, S)

    def require_room(self, tokens: int) -> None:
        """Raise ModelError unless `tokens` more fit."""
        if self.length + tokens > self.capacity:
            raise ModelError(
                f"The cache holds {self.length} of {self.capacity} tokens and cannot take {tokens} more.",
                "Start a new cache with the last part of the text, or ask for fewer tokens.",
            )

    def advance(self, tokens: int) -> None:
        """Count `tokens` more of each row, which every layer has stored."""
        self.lengths[:] = [length + tokens for length in self.lengths]

    def crop(self, length: int) -> None:
        """Keep the first `length` tokens of each row."""
        self.lengths[:] = [min(length, own) for own in self.lengths]

    def reset_row(self, row: int) -> None:
        """Empty one row."""
        self.lengths[row] = 0

    def write_rows(
        self,
        rows: Sequence[int],
        other: KVCache,
        sources: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Replace the contents of `rows` by rows of `other`: `sources` (its first ones), the first `lengths` tokens."""
        sources = range(len(rows)) if sources is None else sources
        lengths = [other.lengths[row] for row in sources] if lengths is None else lengths
        for row, source, length in zip(rows, sources, lengths, strict=True):
            for mine, theirs in zip(self.layers, other.layers, strict=True):
                mine.keys[row, :, :length] = theirs.keys[source, :, :length]
                mine.values[row, :, :length] = theirs.values[source, :, :length]
            self.lengths[row] = length

    def add_rows(self, count: int, capacity: int | None = None) -> None:
        """Add empty rows behind those in use, and room for `capacity` tokens in every row.

        Where the buffers are too small, new ones take twice the rows, so that rows that join one by one cost one
        copy each on the average.
        """
        slots, needed = len(self.layers[0].keys), len(self) + count
        capacity = self.capacity if capacity is None else max(self.capacity, self._within_context(capacity))
        if needed > slots or capacity > self.capacity:
            self._grow(max(needed, 2 * len(self)) if needed > slots else slots, capacity)
        self.lengths += [0] * count

    def remove_row(self, row: int) -> None:
        """Free a row; the last row takes its place, and no other is copied."""
        last = len(self) - 1
        if row != last:
            self.write_rows([row], self, [last])
        self.lengths.pop()

    def select_rows(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; a row may come several times, or not at all. Copies them."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        self.lengths[:] = [self.lengths[row] for row in rows]

    def _grow(self, slots: int, capacity: int) -> None:
        B, end = len(self), self.length
        for layer in self.layers:
            for name, old in (("keys", layer.keys), ("values", layer.values)):
                new = old.new_zeros(slots, old.shape[1], capacity, old.shape[3])
                new[:B, :, :end] = old[:B, :, :end]
                setattr(layer, name, new)
        self.capacity = capacity

    def _within_context(self, capacity: int | None) -> int:
        return self._context_length if capacity is None else min(capacity, self._context_length)
