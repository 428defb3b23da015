"""Randomness as a function of where we are, so that nothing has to be remembered to repeat it."""

from __future__ import annotations

import hashlib

import torch


def seed_for(*place: int) -> int:
    """A 63-bit seed that depends on all of `place`, for example (seed, step, micro-step)."""
    digest = hashlib.sha256(" ".join(map(str, place)).encode("ascii")).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def reseed(*place: int) -> None:
    """Set torch's generator by `place`: dropout at that place is the same whatever came before."""
    torch.manual_seed(seed_for(*place))
