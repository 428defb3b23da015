"""What a check of a model came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One row of `handloom verify`."""

    name: str
    passed: bool | None
    """None: not checked."""
    detail: str
    """How it went, or why it was not checked."""
