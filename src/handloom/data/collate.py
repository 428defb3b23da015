"""Encoded examples become rows, and rows become batches in a shuffled order that needs no memory.

A row is what the model reads at once: inputs, the target of each (or `IGNORE_INDEX`), and which of several texts it
belongs to. Rows of one batch are padded to the longest of them; what is padding follows from lengths, never from an id.

The order is a permutation of n numbers as a function, so that it never changes with a library's version, and billions
of windows cost no memory: a Feistel network over a grid of about the square root of n each way, walked on from the few
cells beyond n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), mixed as in SplitMix64 (Steele, Lea
and Flood, 2014). Arrays only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

IGNORE_INDEX = -1  # a target that is not to be predicted; the loss leaves it out
PADDING = -1  # the segment of padding


@dataclass(frozen=True)
class Row:
    """One text, or several: (T,) int32 each."""

    inputs: np.ndarray
    targets: np.ndarray
    segments: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def n_targets(self) -> int:
        """Targets that count."""
        return int((self.targets != IGNORE_INDEX).sum())


def encode_row(ids: Sequence[int], loss_mask: Sequence[bool]) -> Row:
    """The row of one text: each token but the last is read, and the next is its target where the mask has True.

    At least one id after the first is a target; nothing after the last target needs to be read.
    """
    tokens, counts = np.array(ids, dtype=np.int32), np.array(loss_mask, dtype=bool)
    end = int(np.flatnonzero(counts)[-1])
    targets = np.where(counts[1 : end + 1], tokens[1 : end + 1], np.int32(IGNORE_INDEX))
    return Row(tokens[:end], targets, np.zeros(end, dtype=np.int32))


def pack(rows: Iterable[Row], context_length: int) -> list[Row]:
    """The same texts in fewer rows of at most `context_length` tokens, each text whole; segments count from 0.

    Longest first, each into the fullest row that still has room ("best fit decreasing", Johnson 1973).
    """
    bins: list[list[Row]] = []
    room: list[tuple[int, int]] = []  # what is free, and in which bin; ascending
    for row in sorted(rows, key=len, reverse=True):
        at = bisect_left(room, (len(row), 0))
        free, number = room.pop(at) if at < len(room) else (context_length, len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(row)
        insort(room, (free - len(row), number))
    return [
        Row(
            np.concatenate([text.inputs for text in texts]),
            np.concatenate([text.targets for text in texts]),
            np.repeat(np.arange(len(texts), dtype=np.int32), [len(text) for text in texts]),
        )
        for texts in bins
    ]


def stack(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """inputs, targets and segments of some rows, each (B, T) int64, where T is the length of the longest."""
    return {
        "inputs": pad_batch([row.inputs for row in rows], 0),
        "targets": pad_batch([row.targets for row in rows], IGNORE_INDEX),
        "segments": pad_batch([row.segments for row in rows], PADDING),
    }


def pad_batch(rows: Sequence[np.ndarray | Sequence[int]], filler: int, length: int = 0) -> np.ndarray:
    """Rows of lengths T_i -> (B, T) int64, filled up at the right; T is the largest of them, and at least `length`."""
    batch = np.full((len(rows), max(length, *map(len, rows))), filler, dtype=np.int64)
    for line, row in zip(batch, rows, strict=True):
        line[: len(row)] = row
    return batch


@dataclass(frozen=True)
class ShuffledSampler:
    """Which of `count` rows make up the batch of a step: epoch after epoch, each a permutation of its own.

    `rank` and `world_size`: which of how many processes this is; rank r takes the r-th block of B rows, so that they
    see what one process with batches of world_size * B would.
    """

    count: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every row was seen once, over all ranks; seldom a whole number."""
        return self.count / (self.batch_size * self.world_size)

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch (B,) and the number (B,) of each row of `step`, counted from 0, both int64; a pure function."""
        first = (step * self.world_size + self.rank) * self.batch_size
        epochs, numbers = np.divmod(np.arange(first, first + self.batch_size, dtype=np.int64), self.count)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            numbers[here] = permuted(numbers[here], self.count, self.seed, int(epoch))
        return epochs, numbers

    def batch(self, step: int) -> np.ndarray:
        """The numbers alone."""
        return self.places(step)[1]


def bucket_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Numbers of all examples in batches of similar lengths, so that there is little padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for at in range(0, len(order), batch_size):
        yield order[at : at + batch_size]


_ROUNDS = 16  # with half as many the orders of a handful of windows are not equally likely
_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


def permuted(numbers: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Where each of `numbers`, (k,) integers from 0 to n-1, goes in the permutation of range(n) of (seed, epoch).

    Returns (k,) int64, from 0 to n-1; distinct if `numbers` are. Of the seed the lowest 64 bits count.
    """
    width = isqrt(n - 1) + 1 if n > 1 else 1
    height = -(-n // width)
    keys = _keys(seed, epoch)
    result = _network(numbers.astype(np.uint64), width, height, keys)
    while (outside := result >= n).any():  # the network permutes the whole grid: go on until inside
        result[outside] = _network(result[outside], width, height, keys)
    return result.astype(np.int64)


def _network(values: np.ndarray, width: int, height: int, keys: np.ndarray) -> np.ndarray:
    columns, rows = np.uint64(width), np.uint64(height)
    row, column = np.divmod(values, columns)
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        column = (column + _mixed(row ^ even) % columns) % columns
        row = (row + _mixed(column ^ odd) % rows) % rows
    return row * columns + column


def _keys(seed: int, epoch: int) -> np.ndarray:
    start = _mixed(np.array([seed & _MASK64], dtype=np.uint64)) + np.uint64(epoch)
    steps = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mixed(_mixed(start) + steps)


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every bit of the result depends on every bit of the value."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
