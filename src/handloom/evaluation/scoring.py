"""Token NLL of texts of any length, through sliding windows; means and ratios of it with clustered standard errors.

The stride of the windows decides how much each token is predicted from, and so the number: that is why it is an
argument everywhere. Memory does not grow with the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice

import numpy as np
import torch
from numpy.typing import ArrayLike

from handloom.data.windows import Window, in_chunks, stack_windows, validation_batches, windows_of
from handloom.errors import ConfigError, ModelError
from handloom.inference.language_model import LanguageModel
from handloom.model.embedding import require_ids
from handloom.model.interface import Backbone, evaluating
from handloom.model.loss import IGNORE_INDEX, next_token_loss, score_tokens

Z_95 = 1.96
"""Standard errors to either side in which a mean lies 19 times out of 20."""
MANY_DOCUMENTS = 20
"""From so many documents on, standard errors are over documents."""
BLOCK = 512
"""Bytes of text in a unit, where there are fewer; a token belongs to the one in which it begins."""


# Tokens


@dataclass(frozen=True)
class WindowScore:
    """How the n targets of a window were predicted."""

    nll: np.ndarray
    """(n,) float32, in nats"""
    is_top1: np.ndarray
    """(n,) bool, whether the target was the most probable token"""
    confidence: np.ndarray
    """(n,) float32, the probability of the most probable token"""

    @property
    def total(self) -> float:
        """NLL of all targets together."""
        return float(self.nll.sum(dtype=np.float64))

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would give the targets."""
        return bool(self.is_top1.all())


def score_windows(
    model: Backbone, windows: Iterable[Window], batch_size: int, read_ahead: int = 1
) -> Iterator[WindowScore]:
    """The score of each window, in order, `batch_size` of them computed together.

    `read_ahead` batches are taken at once and computed in the order of their lengths, to pad less. The model is in
    evaluation mode meanwhile, and then as it was. Raises ModelError for scores that are not finite.
    """
    stream = iter(windows)
    while group := list(islice(stream, batch_size * read_ahead)):
        order = sorted(range(len(group)), key=lambda at: len(group[at].inputs))
        scores: dict[int, WindowScore] = {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            scores |= zip(batch, _score(model, [group[at] for at in batch]), strict=True)
        yield from (scores[at] for at in range(len(group)))


@torch.inference_mode()
def _score(model: Backbone, windows: Sequence[Window]) -> list[WindowScore]:
    for window in windows:
        require_ids(window.inputs, model.config.vocab_size)
        require_ids(window.targets, model.config.vocab_size)
    inputs, targets = (torch.from_numpy(one).to(model.device) for one in stack_windows(windows))  # each (B, T)
    counts = targets != IGNORE_INDEX  # (B, T)
    with evaluating(model):
        hidden = model.hidden(inputs)[counts]  # (N, C), those that predict a target that counts
        scores = score_tokens(hidden, model.lm_head, targets[counts])
    if not scores.nll.isfinite().all():
        raise ModelError(
            "The model's scores are not finite numbers, so nothing can be measured.",
            "Its weights are damaged; use an earlier checkpoint.",
        )
    nll, is_top1, confidence = (one.cpu().numpy() for one in (scores.nll, scores.is_top1, scores.confidence))
    ends = accumulate(len(window.targets) for window in windows)
    parts = (slice(end - len(window.targets), end) for window, end in zip(windows, ends, strict=True))
    return [WindowScore(nll[part], is_top1[part], confidence[part]) for part in parts]


def token_nll_of_ids(
    model: Backbone,
    ids: Sequence[int] | np.ndarray,
    *,
    context_length: int,
    stride: int | None = None,
    batch_size: int = 8,
    begin: int | None = None,
) -> Iterator[np.ndarray]:
    """The NLL of each token of a text of N ids, in nats: float32 arrays of N numbers together, N - 1 without `begin`.

    The windows are those of `windows_of`, which explains `stride` and `begin`; `batch_size` of them are computed
    together. Raises ConfigError for a setting outside its limits, ModelError as `score_windows`.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, but must be at least 1.", "Choose a larger `batch_size`.")
    windows = windows_of(in_chunks(ids), context_length=context_length, stride=stride, begin=begin)
    return (score.nll for score in score_windows(model, windows, batch_size))


@dataclass(frozen=True)
class Validation:
    """The loss on held-out text."""

    nats_per_token: float
    """Mean NLL of a token: the validation loss."""
    bits_per_byte: float
    """NLL per byte of UTF-8, in bits: comparable between tokenizers, and with `xz`."""
    tokens: int
    bytes: int


@torch.no_grad()
def validate(
    model: Backbone,
    tokens: np.ndarray,
    n_bytes: int,
    context_length: int,
    batch_size: int,
    hidden: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Validation:
    """The loss on every token but the first, each predicted once, by windows that do not overlap.

    `tokens` are (N,) ids, `n_bytes` the bytes of their text without those of the first token; `hidden`, if given,
    computes the hidden states in place of the model's. The model is in evaluation mode meanwhile, and then as it was.
    """
    total, count = 0.0, 0
    with evaluating(model):
        for batch in validation_batches(tokens, context_length, batch_size):
            inputs, targets = (torch.from_numpy(one).to(model.device) for one in batch)  # each (B, T)
            loss, counted = next_token_loss((hidden or model.hidden)(inputs), model.lm_head, targets)
            total, count = total + loss.item(), count + counted
    return Validation(total / count, total / math.log(2) / n_bytes, count, n_bytes)


# Means and ratios


@dataclass(frozen=True)
class Estimate:
    """A measured mean and its standard error; None where there is a single unit."""

    value: float
    standard_error: float | None


class RatioEstimator:
    """The ratio of two sums over units, such as NLL over tokens, with its standard error.

    Tokens of one text are not independent of each other, so a unit is a document or a long stretch. With a and b of
    each of k units, the error of r = sum(a) / sum(b) is sqrt(k / (k - 1) * sum((a - r b)^2)) / sum(b).
    Source: Cochran 1977, "Sampling Techniques", section 6.3, for units drawn from endless text.
    """

    def __init__(self) -> None:
        self.units = 0
        self._sums = np.zeros(5)  # of a, b, a^2, a b, b^2

    @property
    def total(self) -> float:
        """The sum of a."""
        return float(self._sums[0])

    def add(self, a: ArrayLike, b: ArrayLike = 1.0) -> None:
        """Add one unit, or an array of units."""
        above, below = np.atleast_1d(np.asarray(a, np.float64), np.asarray(b, np.float64))
        self.units += len(above)
        self._sums += (above.sum(), below.sum(), above @ above, above @ below, below @ below)

    def estimate(self) -> Estimate:
        """The ratio of the sums."""
        a, b, aa, ab, bb = map(float, self._sums)
        value, k = a / b, self.units
        if k < 2:
            return Estimate(value, None)
        squares = max(0.0, aa - 2 * value * ab + value * value * bb)
        return Estimate(value, math.sqrt(k / (k - 1) * squares) / b)


def clusters(scores: Iterable[tuple[int, np.ndarray]], block: int | None) -> Iterator[tuple[float, int]]:
    """NLL and tokens of each unit: a document, or a stretch of `block` tokens across documents.

    `scores` are pairs of a document's number and the NLL of some of its tokens, in order.
    """
    total, count, current = 0.0, 0, None
    for document, nll in scores:
        if block is None and document != current and count:
            yield total, count
            total, count = 0.0, 0
        current = document
        while len(nll):
            taken = nll if block is None else nll[: block - count]
            total, count = total + float(taken.sum(dtype=np.float64)), count + len(taken)
            nll = nll[len(taken) :]
            if count == block:
                yield total, count
                total, count = 0.0, 0
    if count:
        yield total, count


# Texts


@dataclass(frozen=True)
class TextScore:
    """The NLL of a model on documents, in units that are the same for every tokenizer."""

    bits_per_byte: Estimate
    nats_per_token: Estimate
    tokens: int
    bytes: int
    nll: tuple[np.ndarray, ...] = field(repr=False)
    """Of each document, (N,) float32: the NLL of each token, in nats."""
    bits: np.ndarray = field(repr=False)
    """(units,) the NLL of each unit, in bits"""
    sizes: np.ndarray = field(repr=False)
    """(units,) their bytes"""

    @property
    def perplexity(self) -> float:
        """e to the mean NLL of a token; not comparable between models with different tokenizers."""
        return math.exp(self.nats_per_token.value)

    @property
    def perplexity_error(self) -> float | None:
        """Its standard error, to first order."""
        error = self.nats_per_token.standard_error
        return None if error is None else self.perplexity * error


def score_text(lm: LanguageModel, documents: Sequence[str], batch_size: int = 8) -> TextScore:
    """The NLL of documents, none of them empty, each after an end of text; the stride is half a context.

    Units are documents, or blocks of bytes where there are fewer than `MANY_DOCUMENTS`.
    """
    context_length, end = lm.config.context_length, lm.tokenizer.eos_token_id
    stride = max(1, context_length // 2)
    nll, units = [], []
    for ids, text in zip(lm.tokenizer.encode_batch(documents), documents, strict=True):
        scores = token_nll_of_ids(
            lm.model, ids, context_length=context_length, stride=stride, batch_size=batch_size, begin=end
        )
        nll.append(np.concatenate(list(scores)))  # (N,)
        size = len(text.encode("utf-8"))
        begins = np.cumsum([0, *(len(lm.tokenizer.token_bytes(token)) for token in ids[:-1])])  # (N,)
        parts = 1 if len(documents) >= MANY_DOCUMENTS else max(1, size // BLOCK)  # the last one is longer, not short
        unit = np.minimum(begins // BLOCK, parts - 1)  # (N,)
        bits = np.bincount(unit, weights=nll[-1].astype(np.float64), minlength=parts) / math.log(2)  # (parts,)
        sizes = np.array([BLOCK] * (parts - 1) + [size - BLOCK * (parts - 1)])
        units.append((bits, sizes, np.bincount(unit, minlength=parts)))
    bits, sizes, counts = (np.concatenate(each) for each in zip(*units, strict=True))
    return TextScore(
        bits_per_byte=ratio(bits, sizes),
        nats_per_token=ratio(bits * math.log(2), counts),
        tokens=int(counts.sum()),
        bytes=int(sizes.sum()),
        nll=tuple(nll),
        bits=bits,
        sizes=sizes,
    )


def difference(of: TextScore, to: TextScore) -> Estimate:
    """Bits per byte of the first less the second, on the same text.

    Unit by unit, so that what is hard for both models does not add to the error.
    """
    return ratio(of.bits - to.bits, of.sizes)


def ratio(above: ArrayLike, below: ArrayLike) -> Estimate:
    """`RatioEstimator` for arrays of units, (n,) each."""
    estimator = RatioEstimator()
    estimator.add(above, below)
    return estimator.estimate()
