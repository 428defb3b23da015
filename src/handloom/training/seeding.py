"""Randomness as a function of where we are, so that nothing has to be remembered to repeat it; and torch as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_for(*place: int) -> int:
    """A 63-bit seed that depends on all of `place`, for example (seed, step, micro-step)."""
    digest = hashlib.sha256(" ".join(map(str, place)).encode("ascii")).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def reseed(*place: int) -> None:
    """Set torch's generator by `place`: dropout at that place is the same whatever came before."""
    torch.manual_seed(seed_for(*place))


@contextmanager
def left_as_found() -> Iterator[None]:
    """What is global to torch is after the block as before it: the state of its generator, and its threads."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(threads)
