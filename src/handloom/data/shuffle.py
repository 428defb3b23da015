"""A permutation of n numbers as a function: where number i goes, without a table of the others.

A Feistel network over a grid of about the square root of n each way, walked on from the few cells
beyond n. The idea is Black and Rogaway's "Ciphers with arbitrary finite domains" (2002); the mixing
function is that of SplitMix64 (Steele, Lea and Flood, 2014). Unlike a library's shuffle the order can
never change with a new version, and billions of windows cost no memory.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

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


def in_epochs(first: int, count: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` numbers, from place `first` on, of the endless stream of permutations of range(n), one for each epoch.

    Returns the epoch (count,) and the number from 0 to n-1 (count,) at each place, both int64.
    """
    epochs, numbers = np.divmod(np.arange(first, first + count, dtype=np.int64), n)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        numbers[here] = permuted(numbers[here], n, seed, int(epoch))
    return epochs, numbers


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
