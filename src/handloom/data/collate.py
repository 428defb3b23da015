"""Encoded examples become rows, and rows become batches in a shuffled order that needs no memory.

A row is what the model reads at once: inputs, the target of each (or `IGNORE_INDEX`), and which of several texts it
belongs to. Rows of one batch are padded to the longest of them; what is padding follows from lengths, never from an id,
so that every id may stand in a text. Arrays only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from handloom.data.shuffle import in_epochs

IGNORE_INDEX = -1
"""A target that is not to be predicted; the loss leaves it out."""
PADDING = -1
"""The segment of padding."""


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

    Longest first, each into the fullest row that still has room ("best fit decreasing", Johnson 1973): the order of
    the texts is lost, but which share a row depends on their lengths alone.
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

    `rank` and `world_size`: which of how many processes this is; together they take world_size * B rows a step, rank r
    the r-th block of B, so that they see what one process with batches of world_size * B would.
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
        """The epoch (B,) and the number (B,) of each row of `step`, counted from 0; a pure function of (seed, step)."""
        first = (step * self.world_size + self.rank) * self.batch_size
        return in_epochs(first, self.batch_size, self.count, self.seed)

    def batch(self, step: int) -> np.ndarray:
        """The numbers alone."""
        return self.places(step)[1]


def bucket_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Numbers of all examples in batches of similar lengths, so that there is little padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for at in range(0, len(order), batch_size):
        yield order[at : at + batch_size]
