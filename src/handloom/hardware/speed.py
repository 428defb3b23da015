"""How fast this machine is, measured: reading memory, multiplying matrices, writing to a disk."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from handloom.runtime import has_native_bf16

_BUFFER = 256 << 20
_SEEN_CACHE = 4
"""The buffer is so many times the last-level cache, so that hardly any of it is found there."""


def read_bandwidth(cache_bytes: int | None, *, least: int = _BUFFER, repeats: int = 7) -> float:
    """Bytes a second at which torch's threads read memory: the median of passes over a buffer larger than the caches.

    The largest number of whole numbers is sought, which is one comparison for 8 bytes; a sum of floats, which keeps
    several partial sums for its accuracy, is slower than memory on some processors.
    """
    size = max(least, _SEEN_CACHE * (cache_bytes or 0)) // 8
    numbers = torch.zeros(size, dtype=torch.int64)
    return size * 8 / statistics.median(_times(numbers.max, repeats))


def matrix_speed(dtype: str, *, size: int = 1536, repeats: int = 5) -> float | None:
    """Operations a second (a multiply-add is two) of the product of two square matrices; None without that product.

    Args:
        dtype: fp32, bf16 (None where it is emulated) or int8 (8-bit numbers, 32-bit sums).
        size: rows and columns.
        repeats: products, of which the median counts.
    """
    if dtype == "bf16" and not has_native_bf16():
        return None
    generator = torch.Generator().manual_seed(0)
    if dtype == "int8":
        one = torch.randint(-127, 128, (size, size), generator=generator).to(torch.int8)
        product = torch._int_mm
    else:
        one = torch.randn(size, size, generator=generator).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
        product = torch.mm
    with suppress(RuntimeError, NotImplementedError):
        return float(2 * size**3 / statistics.median(_times(lambda: product(one, one), repeats)))
    return None


def disk_speed(folder: Path, *, size: int = 64 << 20) -> float:
    """Bytes a second at which a new file in `folder` reaches the disk; the file is removed. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path, block = folder / f".speed-{os.getpid()}", os.urandom(1 << 20)
    try:
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(size >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return size / (time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)


def _times(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return times
