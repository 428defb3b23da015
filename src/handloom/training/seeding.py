"""Randomness as a pure function of the position in a run, so that no generator state has to be saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_for(*position: int) -> int:
    """A 63-bit seed from all of `position`, for example (seed, step, micro-step)."""
    digest = hashlib.sha256(" ".join(map(str, position)).encode("ascii")).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def reseed(*position: int) -> None:
    """Seed torch's generators by `position`: dropout there does not depend on what was drawn before."""
    torch.manual_seed(seed_for(*position))


@contextmanager
def preserving_torch_state() -> Iterator[None]:
    """Restore torch's global generator and number of threads after the block."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(threads)
