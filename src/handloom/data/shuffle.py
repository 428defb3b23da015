"""A permutation of n numbers as a function: where number i goes, without a table of the others.

A Feistel network over the next larger power of four, walked until it lands below n. The idea is
Black and Rogaway's "Ciphers with arbitrary finite domains" (2002); the mixing function is that of
SplitMix64 (Steele, Lea and Flood, 2014). Unlike a library's shuffle the order can never change with
a new version, and billions of windows cost no memory.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


def permuted(numbers: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Where each of `numbers` goes in the permutation of range(n) that belongs to (seed, epoch).

    Args:
        numbers: (k,) integers from 0 to n-1.
        seed: any integer; its lowest 64 bits count.
    Returns:
        (k,) int64, from 0 to n-1; distinct if `numbers` are.
    """
    half = np.uint64(max(4, ((n - 1).bit_length() + 1) // 2))  # below 16 x 16 the rounds mix too little
    keys = _keys(seed, epoch)
    result = _network(numbers.astype(np.uint64), half, keys)
    while (outside := result >= n).any():  # the network permutes a larger range: go on until inside
        result[outside] = _network(result[outside], half, keys)
    return result.astype(np.int64)


def _network(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _keys(seed: int, epoch: int) -> np.ndarray:
    start = _mixed(np.array([seed & _MASK64], dtype=np.uint64)) + np.uint64(epoch)
    steps = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mixed(_mixed(start) + steps)


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every bit of the result hangs on every bit of the value."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
