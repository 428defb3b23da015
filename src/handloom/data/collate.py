"""Encoded examples become rows, and rows become batches in a shuffled order that needs no memory.

A row is what the model reads at once: inputs, the target of each (or `IGNORE_INDEX`), and which of several texts it
belongs
to. Rows of one batch are padded to the longest of them; what is padding follows from lengths, never from an id, so
that every id may stand in a text. Knows arrays only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from handloom.data.shuffle import in_epochs
from handloom.data.windows import IGNORE_INDEX

PADDING = -1
"""The segment of what is no text."""


@dataclass(frozen=True)
class Row:
    """One text, or several: (T,) int32 each."""

    inputs: np.ndarray
    targets: np.ndarray
    segments: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def learned(self) -> int:
        """Targets that count."""
        return int((self.targets != IGNORE_INDEX).sum())


def encode_row(ids: Sequence[int], learned: Sequence[bool]) -> Row:
    """The row of one text: each token but the last is read, and what follows it is its target if it is learned.

    Nothing behind the last target needs to be read.

    Args:
        ids: of the text.
        learned: for each id whether it is a target; at least one behind the first is.
    """
    tokens, counts = np.array(ids, dtype=np.int32), np.array(learned, dtype=bool)
    end = int(np.flatnonzero(counts)[-1])
    targets = np.where(counts[1 : end + 1], tokens[1 : end + 1], np.int32(IGNORE_INDEX))
    return Row(tokens[:end], targets, np.zeros(end, dtype=np.int32))


def pack(rows: Iterable[Row], context_length: int) -> list[Row]:
    """The same texts in fewer rows of at most `context_length` tokens, each text whole.

    Longest first, each into the fullest row that still has room ("best fit decreasing", Johnson 1973): the order
    of the texts is lost, but which share a row depends on their lengths alone.

    Returns:
        rows whose segments count their texts from 0.
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
    return [_joined(texts) for texts in bins]


def _joined(texts: Sequence[Row]) -> Row:
    return Row(
        np.concatenate([text.inputs for text in texts]),
        np.concatenate([text.targets for text in texts]),
        np.repeat(np.arange(len(texts), dtype=np.int32), [len(text) for text in texts]),
    )


def stack(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """inputs, targets and segments of some rows, each (B, T) int64, where T is the length of the longest."""
    return {
        "inputs": pad_batch([row.inputs for row in rows], 0),
        "targets": pad_batch([row.targets for row in rows], IGNORE_INDEX),
        "segments": pad_batch([row.segments for row in rows], PADDING),
    }


def pad_batch(arrays: Sequence[np.ndarray], filler: int) -> np.ndarray:
    """Arrays (T_i,) side by side in one of (B, T) int64, filled up at the right."""
    made = np.full((len(arrays), max(map(len, arrays))), filler, dtype=np.int64)
    for line, array in zip(made, arrays, strict=True):
        line[: len(array)] = array
    return made


@dataclass(frozen=True)
class ShuffledSampler:
    """Which examples make up the batch of a step: epoch after epoch, each a permutation of its own.

    Args:
        count: of the examples.
        batch_size: examples in a batch.
        seed: another one gives other orders.
    """

    count: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every example was seen once; seldom a whole number."""
        return self.count / self.batch_size

    def batch(self, step: int) -> np.ndarray:
        """Numbers of the examples of `step`, counted from 0: (B,). A pure function of (seed, step)."""
        return in_epochs(step * self.batch_size, self.batch_size, self.count, self.seed)[1]


def bucket_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Numbers of all examples in batches of similar lengths, so that little is padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for at in range(0, len(order), batch_size):
        yield order[at : at + batch_size]
