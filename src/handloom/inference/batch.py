"""Rows of ids in one KV cache: prefills prompts, a shared prefix once, then reads a token of each row a step.

Does not sample.
"""

from __future__ import annotations

from collections import abc
from typing import Any

import torch
from torch import Tensor

from handloom.inference.logprobs import window_start
from handloom.model.gpt import GPT

SHARED = 32
"""Tokens of a prefix that texts must share for it to be read once: what follows it takes a pass of its own."""


PASS = 2048
"""Tokens that a pass of the model reads at most, all rows together: more would only take memory for activations."""


class Batch:
    """Rows of ids in one KV cache, each with its own length and its own window.

    Prompts of the same length are read in one pass; a prefix that a prompt shares with another row is copied. Then all
    rows read one token a step together. A row that would pass the context goes on from its last half, when its own
    time has come. `texts` are the lists that were added; chosen tokens are appended to them.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.texts: list[list[int]] = []
        self._context = model.config.context_length
        self._cache = model.new_cache(0, 0)
        self._windows: list[int] = []  # where the part of each text begins that is in the cache, or will be
        self._rooms: list[int] = []  # tokens of the window that each row needs at most

    def add(self, text: list[int], room: int) -> None:
        """A new last row; `room` is the most tokens that will be appended to it."""
        self.texts.append(text)
        self._windows.append(window_start(len(text), self._context))
        self._rooms.append(min(self._context, len(text) - self._windows[-1] + room))

    @torch.inference_mode()
    def next_logits(self) -> Tensor:
        """The logits (B, V) of each row's next token, over all ids of the model."""
        new = len(self.texts) - len(self._cache.lengths)
        if new:
            self._cache.add_rows(new, max(self._rooms))
        for row, text in enumerate(self.texts):
            if len(text) - self._windows[row] > self._context:
                self._windows[row] = window_start(len(text), self._context)
                self._cache.reset_row(row)
        unread = [row for row, length in enumerate(self._cache.lengths) if length == 0]
        shared = self._shared(unread)
        if len(unread) == len(self.texts) and not shared:
            found = self._prefill(unread, 0)
            return self.model.unembed(torch.stack([found[row] for row in unread]))  # (B, C) -> (B, V)
        self._prefill([row for row in unread if row not in shared], 1)  # the last token is read with the others' next
        self._copy(shared)
        return self.model.next_logits(self._tensor([text[-1:] for text in self.texts]), self._cache)

    @torch.inference_mode()
    def verify(self, proposed: list[int]) -> Tensor:
        """The only row's logits (1 + k, V): of its next token, and of those behind each of k proposed tokens.

        After that some of these are appended to its text, and `crop` forgets the others.
        """
        tokens = self._tensor([[self.texts[0][-1], *proposed]])  # (1, 1 + k)
        return self.model.unembed(self.model.hidden(tokens, self._cache)[0])

    def crop(self) -> None:
        """Forget what the cache holds beyond the only row's text without its last token, which is not read yet."""
        self._cache.crop(len(self.texts[0]) - self._windows[0] - 1)

    @property
    def verifiable(self) -> int:
        """How many proposed tokens fit behind the next one; 0 unless one row is running, with all but that read."""
        if len(self._cache) != 1 or len(self.texts) != 1:
            return 0
        ready = self._cache.length == len(self.texts[0]) - self._windows[0] - 1 > 0
        return max(0, self._cache.capacity - self._cache.length - 1) if ready else 0

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Free a row; the last row takes its place, and no other moves."""
        self._cache.remove_row(row)
        each_row: tuple[list[Any], ...] = (self.texts, self._windows, self._rooms)
        for rows in each_row:
            rows[row] = rows[-1]
            rows.pop()

    def select(self, rows: abc.Sequence[int]) -> None:
        """Go on with copies of these rows, in this order; a row may come several times, or not at all."""
        self.texts = [list(self.texts[row]) for row in rows]
        self._windows = [self._windows[row] for row in rows]
        self._rooms = [self._rooms[row] for row in rows]
        self._cache.select_rows(rows)

    def _shared(self, unread: list[int]) -> dict[int, tuple[int, int]]:
        """What unread rows copy: the row with the longest common beginning, where that has `SHARED` tokens or more.

        That is a running row, or an unread one that copies nothing; then how many tokens. A text's last token is always
        read.
        """
        found: dict[int, tuple[int, int]] = {}
        if not unread or max(len(self.texts[row]) for row in unread) <= SHARED or len(self.texts) == 1:
            return found
        ends = [window + length for window, length in zip(self._windows, self._cache.lengths, strict=True)]
        held = {row: self.texts[row][self._windows[row] : end] for row, end in enumerate(ends) if row not in unread}
        for row in unread:
            window = self.texts[row][self._windows[row] : -1]
            tokens, source = max(((_common(window, other), one) for one, other in held.items()), default=(0, 0))
            if tokens >= SHARED:
                found[row] = source, tokens
            else:
                held[row] = window
        return found

    def _prefill(self, unread: list[int], but: int) -> dict[int, Tensor]:
        """Read what empty rows hold without the last `but` tokens, a pass per length; the last hidden states (C)."""
        found: dict[int, Tensor] = {}
        equally_long: dict[int, list[int]] = {}
        for row in unread:
            equally_long.setdefault(len(self.texts[row]) - self._windows[row] - but, []).append(row)
        for length, rows in equally_long.items():
            if length:
                found.update(zip(rows, self._read(rows, [self._unread(row, but) for row in rows]), strict=True))
        return found

    def _copy(self, shared: dict[int, tuple[int, int]]) -> None:
        """Copy what rows share with others, and read the rest of each but its last token, several rows in one pass."""
        for row, (source, tokens) in shared.items():
            self._cache.write_rows([row], self._cache, [source], [tokens])
        tails = {row: self._unread(row, 1) for row in shared}
        together: list[int] = []
        for row in sorted((row for row in shared if tails[row]), key=lambda row: len(tails[row])):
            end, first = max(shared[one][1] for one in [*together, row]) + len(tails[row]), [*together, row][0]
            if end > self._context or len(tails[row]) > 2 * len(tails[first]) + 16:  # too much padding
                self._read(together, [tails[one] for one in together])
                together = []
            together.append(row)
        if together:
            self._read(together, [tails[one] for one in together])

    def _unread(self, row: int, but: int) -> list[int]:
        """The tokens of a row that are not in the cache, without the last `but`."""
        text = self.texts[row]
        return text[self._windows[row] + self._cache.lengths[row] : len(text) - but]

    def _read(self, rows: list[int], tokens: list[list[int]]) -> Tensor:
        """Read tokens behind what `rows` hold, padded on the right; the hidden states of the last ones, (G, C)."""
        held, T = [self._cache.lengths[row] for row in rows], max(map(len, tokens))
        ids = self._tensor([[*one, *[0] * (T - len(one))] for one in tokens])  # (G, T)
        cache = self._cache
        if len(rows) < len(self.texts):
            cache = self.model.new_cache(len(rows), max(held) + T)
            cache.write_rows(range(len(rows)), self._cache, rows, held)
        pieces = ids.split(max(1, PASS // len(rows)), dim=1)  # (G, at most T) each
        hidden = torch.cat([self.model.hidden(piece, cache) for piece in pieces], dim=1)  # (G, T, C)
        cache.lengths[:] = [length + len(one) for length, one in zip(held, tokens, strict=True)]
        if cache is not self._cache:
            self._cache.write_rows(rows, cache)
        return hidden[range(len(rows)), [len(one) - 1 for one in tokens]]  # (G, C)

    def _tensor(self, ids: list[list[int]]) -> Tensor:
        return torch.tensor(ids, device=self.model.device)


def _common(one: list[int], other: list[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)
