"""Prompt-lookup speculation: what followed the last tokens earlier in the text is proposed, and verified in one pass.

Exact: each token is drawn as without it, from the same logits and random numbers, and a proposed token counts only
where it is the very token that was drawn. Knows no model.

Source: Saxena 2023, "Prompt Lookup Decoding"; of a proposal that is certain, the rejection sampling of Leviathan et al.
2023, "Fast Inference from Transformers via Speculative Decoding", accepts it where the draw gives that token.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAMS = (3, 2)
_PAID = 0.03
"""Of a token's time: what each token alone pays of a debt, and so what attempts that fail may cost in the long run."""
_MOST = 4.0
"""Tokens: the largest debt of a pass (a pause of 133 tokens), and the largest saving that is remembered."""


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

    A pass over a token and its proposed ones brings 1 + accepted tokens, and takes as long as `cost` single tokens,
    measured as the text is generated. What it loses is a debt, of which each token alone pays a part; until it is paid,
    nothing is proposed. So below break-even all attempts together cost a small share of the time.
    """

    def __init__(self) -> None:
        self.passes = self.proposed = self.accepted = 0
        self.seconds: dict[bool, float] = {}
        """Of a step, with proposed tokens (True) and without: the quickest lately, since interruptions only add."""
        self._saved = 0.0  # tokens; below 0: the debt

    @property
    def cost(self) -> float | None:
        """Of a pass with proposed tokens, in single tokens; None before both were measured."""
        return self.seconds[True] / self.seconds[False] if len(self.seconds) == 2 else None

    def propose(self, index: NgramIndex, most: int) -> list[int]:
        """At most `most` tokens to verify; none where nothing repeats, in a pause, before the first single step."""
        ready = most > 0 and self._saved >= 0 and False in self.seconds
        return index.propose(most) if ready else []

    def record(self, seconds: float, proposed: int, accepted: int) -> None:
        """Count a step. The first pass is not timed: PyTorch prepares what it has not computed before."""
        if not proposed or self.passes:
            before = self.seconds.get(proposed > 0, seconds)
            self.seconds[proposed > 0] = min(seconds, 0.75 * before + 0.25 * min(seconds, 2 * before))
        if not proposed:
            self._saved = min(self._saved + _PAID, max(self._saved, 0.0))
            return
        self.passes, self.proposed = self.passes + 1, self.proposed + proposed
        self.accepted += accepted
        gain = 1 + accepted - (self.cost or 0.0)
        self._saved = min(self._saved + max(gain, -_MOST), _MOST)
