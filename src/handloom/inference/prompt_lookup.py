"""Prompt-lookup speculation: what followed the last tokens earlier in the text is proposed, and verified in one pass.

Exact: each token is drawn as without it, from the same logits and random numbers, and a proposed token counts only
where it is the very token that was drawn. Knows no model.

Source: Saxena 2023, "Prompt Lookup Decoding"; of a proposal that is certain, the rejection sampling of Leviathan et al.
2023, "Fast Inference from Transformers via Speculative Decoding", accepts it where the draw gives that token.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAMS = (3, 2)
_SHORTEST_PAUSE, _LONGEST_PAUSE = 8, 256


class NgramIndex:
    """Where each n-gram of a text that only grows ends the last time but at its very end."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = ids
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def propose(self, count: int) -> list[int]:
        """The `count` tokens that followed the longest n-gram that ends the text, repeated where they reach its end."""
        for end in range(self._indexed + 1, len(self._ids)):
            self._ends.update((tuple(self._ids[end - n : end]), end) for n in NGRAMS if n <= end)
        self._indexed = max(self._indexed, len(self._ids) - 1)
        for n in NGRAMS:
            if (at := self._ends.get(tuple(self._ids[-n:]))) is not None:
                return [self._ids[at + place % (len(self._ids) - at)] for place in range(count)]
        return []


class Speculation:
    """Counts what speculation brings, and pauses it while it costs more than it saves.

    A pass over a token and its proposed ones brings 1 + accepted tokens, and takes as long as `cost` single tokens;
    both are averaged here as the text is generated. Below break-even it pauses, after each attempt longer.
    """

    def __init__(self) -> None:
        self.passes = self.proposed = self.accepted = 0
        self.seconds: dict[bool, float] = {}
        """Average seconds of a step, with proposed tokens (True) and without."""
        self._gain: float | None = None  # average tokens of a pass
        self._wait, self._pause = 0, _SHORTEST_PAUSE

    @property
    def cost(self) -> float | None:
        """Of a pass with proposed tokens, in single tokens; None before both were measured."""
        return self.seconds[True] / self.seconds[False] if len(self.seconds) == 2 else None

    def propose(self, index: NgramIndex, most: int) -> list[int]:
        """At most `most` tokens to verify; none where nothing repeats, in a pause, before the first single step."""
        if self._wait or False not in self.seconds:
            self._wait = max(0, self._wait - 1)
            return []
        return index.propose(most) if most else []

    def record(self, seconds: float, proposed: int, accepted: int) -> None:
        """Count a step, and pause below break-even."""
        kind = proposed > 0
        self.seconds[kind] = _average(self.seconds.get(kind), seconds)
        if not proposed:
            return
        self.passes, self.proposed = self.passes + 1, self.proposed + proposed
        self.accepted += accepted
        self._gain = _average(self._gain, 1 + accepted)
        if self.cost is not None and self._gain < self.cost:
            self._wait, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._pause = _SHORTEST_PAUSE


def _average(before: float | None, now: float) -> float:
    return now if before is None else 0.75 * before + 0.25 * now
