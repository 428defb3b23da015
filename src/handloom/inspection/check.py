"""What a check of a model came to, and how much may differ. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 1e-4
"""The largest difference allowed, as a share of the largest number there is (or of 1)."""

Outcome = tuple[bool | None, str]
"""Whether a check passed (None: not checked), and how it went or why it was not checked."""


@dataclass(frozen=True)
class Check:
    """One row of `handloom verify`: a check's name and its `Outcome`."""

    name: str
    passed: bool | None
    detail: str
