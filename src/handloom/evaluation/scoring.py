"""The surprise at every token of a text, however long, in memory that does not grow with it.

A text is read through windows. How far a window moves, the stride, decides how much each token is predicted from,
and so the number: that is why it is an argument everywhere. Knows ids only; no text, no averages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from handloom.errors import ConfigError, ModelError
from handloom.model.embedding import require_ids
from handloom.model.interface import Backbone, evaluating
from handloom.model.loss import IGNORE_INDEX, score_tokens

_IDS = 1 << 16  # ids of a long text that are copied at a time


@dataclass(frozen=True)
class Window:
    """What the model reads at once, and which of its predictions count."""

    inputs: np.ndarray
    """(T,) int64."""
    targets: np.ndarray
    """(n,) int64, n at most T: the tokens that follow each of the last n inputs."""


@dataclass(frozen=True)
class WindowScore:
    """How a window's targets were predicted."""

    nats: np.ndarray
    """(n,) float32: -log of the probability that the model gave each target."""
    greedy: bool
    """Whether each target was the likeliest token there."""


def token_nll_of_ids(
    model: Backbone,
    ids: Sequence[int] | np.ndarray,
    *,
    context_length: int,
    stride: int | None = None,
    batch_size: int = 8,
    begin: int | None = None,
) -> Iterator[np.ndarray]:
    """The surprise at each token of a text, in order, in nats.

    With `stride` = `context_length` the windows lie side by side, and a token at a window's start is predicted from
    little.
    A shorter stride predicts each token beyond the first window from at least `context_length - stride` tokens before
    it, at
    `context_length / stride` times the price. The last window is moved back to end with the text, so that it is full
    too.

    Args:
        model: is in evaluation mode while it reads, and otherwise as it was.
        ids: (N,), may be memory-mapped.
        context: how many tokens the model reads at once.
        stride: how many new tokens each window predicts, 1 to `context_length`; `context_length` if not given.
        batch_size: windows read together; has no influence on the result beyond rounding.
        begin: a token to put before the text, such as the end of text; without it nothing predicts the first token.

    Yields:
        float32 arrays; together they hold N numbers, or N - 1 without `begin`.

    Raises:
        ConfigError: for a setting outside its limits.
        ModelError: when the tokens do not suit the model, or its scores are no numbers.
    """
    _at_least_one("batch_size", batch_size)
    chunks = (np.asarray(ids[at : at + _IDS]) for at in range(0, len(ids), _IDS))
    windows = windows_of(chunks, context_length=context_length, stride=stride, begin=begin)
    return (scored.nats for scored in read_windows(model, windows, batch_size))


def windows_of(
    chunks: Iterable[np.ndarray | Sequence[int]],
    *,
    context_length: int,
    stride: int | None = None,
    begin: int | None = None,
) -> Iterator[Window]:
    """The windows through which `token_nll_of_ids` reads a text that comes in chunks of ids; each target comes once.

    Raises:
        ConfigError: for a setting outside its limits.
    """
    stride = context_length if stride is None else stride
    _at_least_one("context_length", context_length)
    _at_least_one("stride", stride)
    if stride > context_length:
        raise ConfigError(
            f"stride is {stride}, but must be at most the context, {context_length}, or tokens would be left out.",
            "Choose a smaller stride.",
        )
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
        # A window is only full if the text goes on behind it; the last one is moved back instead.
        while len(held) > end:
            yield window(end)
            counted, end = end, end + stride
        spent = max(0, counted - 1 - context_length)
        held, counted, end = held[spent:], counted - spent, end - spent
    if len(held) > counted:
        yield window(len(held))


def read_windows(model: Backbone, windows: Iterable[Window], batch_size: int, ahead: int = 1) -> Iterator[WindowScore]:
    """Let the model read windows, several together, and say how it predicted their targets.

    Shorter windows are padded on the right, where no earlier token sees it.

    Args:
        model: as `token_nll_of_ids`.
        windows: of any lengths.
        batch_size: how many are read together.
        ahead: so many batches are taken at once and read in the order of their lengths, to pad less.

    Yields:
        one `WindowScore` for each window, in their order.
    """
    stream = iter(windows)
    while group := list(islice(stream, batch_size * ahead)):
        order = sorted(range(len(group)), key=lambda at: len(group[at].inputs))
        found: dict[int, WindowScore] = {}
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            found |= zip(places, _read(model, [group[at] for at in places]), strict=True)
        yield from (found[at] for at in range(len(group)))


@torch.inference_mode()
def _read(model: Backbone, windows: Sequence[Window]) -> list[WindowScore]:
    longest = max(len(window.inputs) for window in windows)
    inputs = torch.zeros((len(windows), longest), dtype=torch.int64)  # (B, T)
    targets = torch.full_like(inputs, IGNORE_INDEX)  # (B, T)
    for row, window in enumerate(windows):
        require_ids(window.inputs, model.config.vocab_size)
        require_ids(window.targets, model.config.vocab_size)
        end = len(window.inputs)
        inputs[row, :end] = torch.from_numpy(window.inputs)
        targets[row, end - len(window.targets) : end] = torch.from_numpy(window.targets)
    counts = targets != IGNORE_INDEX  # (B, T)
    with evaluating(model):
        hidden = model.hidden(inputs)[counts]  # (N, C), those that predict something that counts
        scores = score_tokens(hidden, model.lm_head, targets[counts])
    if not scores.nll.isfinite().all():
        raise ModelError(
            "The model's scores are not finite numbers, so nothing can be measured.",
            "Its weights are damaged; use an earlier checkpoint.",
        )
    sizes = [len(window.targets) for window in windows]
    rows = zip(scores.nll.split(sizes), scores.is_top1.split(sizes), strict=True)
    return [WindowScore(n.numpy(), bool(g.all())) for n, g in rows]


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}, but must be at least 1.", f"Choose a larger {name}.")
