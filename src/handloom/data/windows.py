"""A row of tokens becomes batches: overlapping windows in a shuffled order that needs no memory.

A window of context T is the inputs tokens[i : i+T] and the targets tokens[i+1 : i+T+1]. The stream of
windows is endless: one epoch after another, each a fresh permutation of all windows. `batch(step)` is
a pure function of (seed, step, rank, world size), so resuming, several processes and "show me the
batch of step 731" need no state. Knows arrays only; no files, no text.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from handloom.data.shuffle import in_epochs
from handloom.errors import ConfigError, DataError

LEAST_HELD_OUT = 3
REPETITIVE = 50  # bytes a token; prose and code have 3 to 6, a text that repeats a line has many more
IGNORE_INDEX = -1  # a target that is not to be predicted; the loss leaves it out


class Windows:
    """Training batches over `tokens`.

    Args:
        tokens: (n,) of any integer type, memory-mapped or not.
        context: T, tokens in a window.
        stride: tokens from one window's start to the next, 1 to T; default T. The last window is
            moved back so that it ends at the last token, so every token but the first is a target.
        batch_size: B, windows in a batch of one rank.
        seed: any integer; another seed gives other orders.
        rank, world_size: which of how many processes this is. Together the ranks take
            world_size * B windows a step, rank r the r-th block of B.
    Raises:
        DataError: the text is shorter than one window.
        ConfigError: a setting outside its limits.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        context_length: int,
        stride: int | None = None,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        stride = context_length if stride is None else stride
        _check("context_length", context_length, 1)
        _check("stride", stride, 1, context_length)
        _check("batch_size", batch_size, 1)
        _check("world_size", world_size, 1)
        _check("rank", rank, 0, world_size - 1)
        self.tokens = np.asarray(tokens)
        self.context_length, self.stride, self.batch_size = context_length, stride, batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self._count = count_windows(len(self.tokens), context_length, stride)
        self._last_start = len(self.tokens) - 1 - context_length

    def __len__(self) -> int:
        """Windows in an epoch."""
        return self._count

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every window was seen once, over all ranks; seldom a whole number."""
        return self._count / (self.batch_size * self.world_size)

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """What the batch of `step` is made of.

        Returns:
            epoch (B,) and first token (B,) of each window, both int64.
        """
        _check("step", step, 0)
        first = (step * self.world_size + self.rank) * self.batch_size
        epochs, numbers = in_epochs(first, self.batch_size, self._count, self.seed)
        return epochs, np.minimum(numbers * self.stride, self._last_start)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch of `step`, counted from 0: inputs (B, T) and targets (B, T), int64."""
        _, starts = self.places(step)
        spans = self.tokens[starts[:, None] + np.arange(self.context_length + 1)].astype(np.int64)  # (B, T+1)
        return np.ascontiguousarray(spans[:, :-1]), np.ascontiguousarray(spans[:, 1:])


def count_windows(n_tokens: int, context_length: int, stride: int, n_bytes: int = 0, copies: int = 0) -> int:
    """Windows in an epoch.

    Args:
        n_tokens, context, stride: as `Windows` has them.
        n_bytes: of the text, to tell why it has few tokens.
        copies: documents that were left out of it as exact copies, for the same.
    Raises:
        DataError: the text is shorter than one window.
    """
    if n_tokens <= context_length:
        more, remedy = _why_short(n_tokens, n_bytes, copies)
        raise DataError(
            f"The text has {n_tokens:,} tokens, but one window takes {context_length + 1:,} (context "
            f"{context_length:,} and the "
            f"token after it).{more}",
            f"{remedy}, or a smaller --context-length.",
        )
    return -(-(n_tokens - 1 - context_length) // stride) + 1


def check_held_out(n_tokens: int, n_bytes: int = 0, copies: int = 0) -> None:
    """Raises DataError if a text is too short to validate with; arguments as for `count_windows`."""
    if n_tokens < LEAST_HELD_OUT:
        more, remedy = _why_short(n_tokens, n_bytes, copies)
        raise DataError(
            f"There are {n_tokens} tokens of text to validate with, which is too few.{more}",
            f"{remedy}, or a larger --validation-fraction.",
        )


def _why_short(n_tokens: int, n_bytes: int, copies: int) -> tuple[str, str]:
    """What is so about a text that comes to few tokens, and what to do about it."""
    if copies:
        left_out = "1 document was" if copies == 1 else f"{copies:,} documents were"
        return f" {left_out} left out as exact copies of others.", "Give text that says something else"
    if n_bytes > REPETITIVE * max(n_tokens, 1):
        size = f"{n_bytes / 1e6:,.2f} MB" if n_bytes >= 1e5 else f"{n_bytes:,} bytes"
        return (
            f" It has {size}, but repeats itself so much that its tokens are {n_bytes / max(n_tokens, 1):,.0f} bytes "
            "long on average.",
            "Give text that says something else, a smaller --vocab-size",
        )
    return "", "Give more text"


def validation_batches(
    tokens: np.ndarray, context_length: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every token but the first predicted exactly once, in order.

    Windows lie side by side; the last one is moved back to end at the last token and so sees a full
    context too. What it has in common with the one before is not counted twice.

    Returns:
        inputs (b, T) and targets (b, T), int64; b is `batch_size`, less in the last batch. Targets to
        leave out are -1. A text shorter than a window is padded on the right: inputs 0, targets -1.
    Raises:
        DataError: fewer than two tokens, so nothing to predict.
        ConfigError: `context_length` or `batch_size` below 1.
    """
    _check("context_length", context_length, 1)
    _check("batch_size", batch_size, 1)
    tokens = np.asarray(tokens)
    n_targets = len(tokens) - 1
    if n_targets < 1:
        raise DataError(
            f"The validation text has {len(tokens)} tokens; predicting takes at least 2.",
            "Give more text, or hold out more of it with --validation-fraction.",
        )
    return _validation_batches(tokens, n_targets, context_length, batch_size)


def _validation_batches(
    tokens: np.ndarray, n_targets: int, context_length: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    first_targets = range(0, n_targets, context_length)
    for group in range(0, len(first_targets), batch_size):
        rows = first_targets[group : group + batch_size]
        inputs = np.zeros((len(rows), context_length), dtype=np.int64)
        targets = np.full((len(rows), context_length), IGNORE_INDEX, dtype=np.int64)
        for row, uncounted in enumerate(rows):
            start = max(0, min(uncounted, n_targets - context_length))
            end = min(start + context_length, n_targets)
            inputs[row, : end - start] = tokens[start:end]
            targets[row, uncounted - start : end - start] = tokens[uncounted + 1 : end + 1]
        yield inputs, targets


def _check(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise ConfigError(f"{name} is {value}, but must be {limits}.", f"Choose a {name} within that.")
