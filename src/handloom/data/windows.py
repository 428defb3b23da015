"""A text in tokens becomes windows: shuffled batches to train on, and ordered ones to measure with.

A window of context T is the inputs tokens[i : i+T] and the targets tokens[i+1 : i+T+1]. Training batches are an endless
stream of epochs, each a fresh permutation of all windows; `batch(step)` is a pure function of (seed, step, rank, world
size), so that resuming needs no state. Arrays only; no files, no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from handloom.data.collate import IGNORE_INDEX, ShuffledSampler, pad_batch
from handloom.errors import ConfigError, DataError

LEAST_HELD_OUT = 3
REPETITIVE = 50  # bytes a token; prose and code have 3 to 6, a text that repeats a line has many more
_CHUNK = 1 << 16  # tokens of a long text that are copied at a time


class Windows:
    """Training batches of B windows over `tokens`, (n,) of any integer type, memory-mapped or not.

    `stride` is the number of tokens from one window's start to the next, 1 to T; default T. The last window is moved
    back so that it ends at the last token, so every token but the first is a target. For `rank` and `world_size` see
    `ShuffledSampler`. Raises DataError for a text shorter than one window, ConfigError for a setting outside its
    limits.
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
        self.context_length, self.stride, self.batch_size, self.seed = context_length, stride, batch_size, seed
        count = count_windows(len(self.tokens), context_length, stride)
        self.sampler = ShuffledSampler(count, batch_size, seed, rank=rank, world_size=world_size)
        self.steps_per_epoch = self.sampler.steps_per_epoch

    def __len__(self) -> int:
        """Windows in an epoch."""
        return self.sampler.count

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch (B,) and first token (B,) of each window in the batch of `step`, both int64."""
        _check("step", step, 0)
        epochs, numbers = self.sampler.places(step)
        return epochs, np.minimum(numbers * self.stride, len(self.tokens) - 1 - self.context_length)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch of `step`, counted from 0: inputs (B, T) and targets (B, T), int64."""
        _, starts = self.places(step)
        spans = self.tokens[starts[:, None] + np.arange(self.context_length + 1)].astype(np.int64)  # (B, T+1)
        return np.ascontiguousarray(spans[:, :-1]), np.ascontiguousarray(spans[:, 1:])


def count_windows(n_tokens: int, context_length: int, stride: int, *, n_bytes: int = 0, copies: int = 0) -> int:
    """Windows in an epoch; DataError for a text shorter than one window.

    `n_bytes` of the text, and the number of documents left out of it as exact `copies`, explain why it is short.
    """
    if n_tokens <= context_length:
        more, remedy = _why_short(n_tokens, n_bytes, copies)
        raise DataError(
            f"The text has {n_tokens:,} tokens, but one window takes {context_length + 1:,} (context "
            f"{context_length:,} and the token after it).{more}",
            f"{remedy}, or lower `context_length`.",
        )
    return -(-(n_tokens - 1 - context_length) // stride) + 1


def check_held_out(n_tokens: int, *, n_bytes: int = 0, copies: int = 0) -> None:
    """Raise DataError if a text is too short to validate with; arguments as for `count_windows`."""
    if n_tokens < LEAST_HELD_OUT:
        more, remedy = _why_short(n_tokens, n_bytes, copies)
        raise DataError(
            f"There are {n_tokens} tokens of text to validate with, which is too few.{more}",
            f"{remedy}, or raise `validation_fraction`.",
        )


def _why_short(n_tokens: int, n_bytes: int, copies: int) -> tuple[str, str]:
    """Why a text comes to few tokens, and the remedy."""
    if copies:
        left_out = "1 document was" if copies == 1 else f"{copies:,} documents were"
        return f" {left_out} left out as exact copies of others.", "Give text with other content"
    if n_bytes > REPETITIVE * max(n_tokens, 1):
        size = f"{n_bytes / 1e6:,.2f} MB" if n_bytes >= 1e5 else f"{n_bytes:,} bytes"
        return (
            f" It has {size}, but repeats itself so much that its tokens are {n_bytes / max(n_tokens, 1):,.0f} bytes "
            "long on average.",
            "Give text with other content, lower `vocab_size`",
        )
    return "", "Give more text"


@dataclass(frozen=True)
class Window:
    """What a model reads at once, and which of its predictions count."""

    inputs: np.ndarray  # (T,) int64
    targets: np.ndarray  # (n,) int64, n at most T: the tokens that follow each of the last n inputs


def windows_of(
    chunks: Iterable[np.ndarray | Sequence[int]],
    *,
    context_length: int,
    stride: int | None = None,
    begin: int | None = None,
) -> Iterator[Window]:
    """The windows over a text in chunks of ids of any sizes, in order; each token but the first is a target once.

    With `stride` = `context_length`, the default, windows lie side by side, and a token at a window's start is
    predicted from little. A shorter stride predicts each token beyond the first window from at least
    `context_length - stride` tokens before it, at `context_length / stride` times the price. The last window is moved
    back to end with the text, so that it is full too; only of a shorter text it is not. `begin` is a token to put
    before the text, such as the end of text, which makes the first token a target as well. Raises ConfigError for a
    setting outside its limits.
    """
    stride = context_length if stride is None else stride
    _check("context_length", context_length, 1)
    _check("stride", stride, 1, context_length)
    return _windows_of(chunks, context_length, stride, begin)


def _windows_of(
    chunks: Iterable[np.ndarray | Sequence[int]], context_length: int, stride: int, begin: int | None
) -> Iterator[Window]:
    held = np.array([] if begin is None else [begin], dtype=np.int64)
    counted = 1  # of what is held, the tokens that were predicted, or are there to predict from

    def window(end: int) -> Window:
        """The one whose last target is held[end - 1]."""
        return Window(held[max(0, end - 1 - context_length) : end - 1], held[counted:end])

    end = 1 + context_length
    for chunk in chunks:
        held = np.concatenate([held, np.asarray(chunk, dtype=np.int64)])
        # A window is only full if the text goes on after it; the last one is moved back instead.
        while len(held) > end:
            yield window(end)
            counted, end = end, end + stride
        spent = max(0, counted - 1 - context_length)
        held, counted, end = held[spent:], counted - spent, end - spent
    if len(held) > counted:
        yield window(len(held))


def in_chunks(tokens: np.ndarray | Sequence[int]) -> Iterator[np.ndarray]:
    """A long text in parts for `windows_of`, so that a memory-mapped one is not copied as a whole."""
    return (np.asarray(tokens[at : at + _CHUNK]) for at in range(0, len(tokens), _CHUNK))


def stack_windows(windows: Sequence[Window], length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of some windows, (B, T) int64 each, T that of the longest or at least `length`.

    Shorter ones are padded on the right, where no earlier token sees it: inputs with 0, targets with IGNORE_INDEX,
    which also marks inputs whose prediction does not count.
    """
    targets = [
        np.concatenate([np.full(len(window.inputs) - len(window.targets), IGNORE_INDEX), window.targets])
        for window in windows
    ]
    return pad_batch([window.inputs for window in windows], 0, length), pad_batch(targets, IGNORE_INDEX, length)


def validation_batches(
    tokens: np.ndarray, context_length: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every token but the first predicted exactly once, in order, through windows that lie side by side.

    Gives inputs (b, T) and targets (b, T), int64, as `stack_windows`, T always `context_length`; b is `batch_size`,
    less in the last batch. Raises DataError for fewer than two tokens, ConfigError for a setting outside its limits.
    """
    _check("batch_size", batch_size, 1)
    windows = windows_of(in_chunks(tokens), context_length=context_length)
    if len(tokens) < 2:
        raise DataError(
            f"The validation text has {len(tokens)} tokens; predicting takes at least 2.",
            "Give more text, or raise `validation_fraction`.",
        )
    groups = iter(lambda: list(islice(windows, batch_size)), [])
    return (stack_windows(group, context_length) for group in groups)


def _check(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise ConfigError(f"{name} is {value}, but must be {limits}.", f"Choose a {name} within that.", setting=name)
