"""How far a mean surprise may be off: its standard error over units that are fairly independent of each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class ClusteredStandardError:
    """Sums over units, from which the standard error of a ratio of sums follows.

    Tokens of one text are not independent of each other: who is surprised by one is surprised by the next. So the
    unit is a document, or a long stretch of tokens. With s surprise and n tokens in each of k units, the error of
    m = sum(s) / sum(n) is sqrt(k / (k - 1) * sum((s - m n)^2)) / sum(n): the ratio estimator (Cochran 1977, 6.3).
    """

    block: int | None
    """Tokens of a unit; None: a document is one."""
    sums: np.ndarray = field(default_factory=lambda: np.zeros(5))
    """Over the finished units: s, n, s^2, s n, n^2."""
    units: int = 0
    document: int | None = None
    s: float = 0.0
    n: int = 0

    def add(self, document: int, nats: np.ndarray) -> None:
        """Take the surprise at the next tokens, all of one document."""
        if self.block is None:
            if document != self.document:
                self._finish()
            self.document = document
            self._grow(nats)
            return
        while len(nats):
            room = self.block - self.n
            self._grow(nats[:room])
            nats = nats[room:]
            if self.n == self.block:
                self._finish()

    def result(self) -> tuple[float, int, float]:
        """All surprise, how many units, and the standard error of its mean; nan if there is one unit only."""
        self._finish()
        s, n, ss, sn, nn = self.sums
        if self.units < 2:
            return float(s), self.units, math.nan
        m = s / n
        squares = max(0.0, ss - 2 * m * sn + m * m * nn)
        return float(s), self.units, math.sqrt(self.units / (self.units - 1) * squares) / n

    def _grow(self, nats: np.ndarray) -> None:
        self.s += float(nats.sum(dtype=np.float64))
        self.n += len(nats)

    def _finish(self) -> None:
        if self.n:
            s, n = self.s, self.n
            self.sums += (s, n, s * s, s * n, n * n)
            self.units += 1
        self.s, self.n = 0.0, 0
