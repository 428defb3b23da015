"""How surprised models are at the same text, so that those with different tokenizers can be compared.

Documents, or where they are few blocks of bytes, are the units: the same for every model. Sums over units are
comparable where sums over tokens are not, and from their spread come the standard errors. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from handloom.evaluation.perplexity import ENOUGH
from handloom.evaluation.scoring import token_nll_of_ids
from handloom.inference.language_model import LanguageModel

BLOCK = 512
"""Bytes of text in a block; a token belongs to the one in which it begins."""


@dataclass(frozen=True)
class Estimate:
    """A measured mean and its standard error; None where one unit is all there is."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class TextScore:
    """What a model made of a text."""

    bits_per_byte: Estimate
    nats_per_token: Estimate
    tokens: int
    bytes: int
    nats: tuple[np.ndarray, ...] = field(repr=False)
    """Of each document, (N,) float32: the surprise at each token."""
    bits: np.ndarray = field(repr=False)
    """(units,) the surprise at each."""
    sizes: np.ndarray = field(repr=False)
    """(units,) their bytes."""

    @property
    def perplexity(self) -> float:
        """e to the mean surprise of a token; between models with different tokenizers it says nothing."""
        return math.exp(self.nats_per_token.value)

    @property
    def perplexity_error(self) -> float | None:
        """Its standard error, to first order."""
        error = self.nats_per_token.standard_error
        return None if error is None else self.perplexity * error


def score_text(lm: LanguageModel, documents: Sequence[str], batch_size: int = 8) -> TextScore:
    """Let a model read documents, each as a beginning, with the end of text before it.

    Every token is predicted from at least half a context before it, as far as its document has that.

    Args:
        lm: the model.
        documents: none of them empty.
        batch_size: windows read together; has no influence on the result beyond rounding.
    """
    context_length, end = lm.config.context_length, lm.tokenizer.eos_token_id
    how: dict[str, int] = {
        "context_length": context_length,
        "stride": max(1, context_length // 2),
        "batch_size": batch_size,
    }
    nats, units = [], []
    for ids, text in zip(lm.tokenizer.encode_batch(documents), documents, strict=True):
        nats.append(np.concatenate(list(token_nll_of_ids(lm.model, ids, **how, begin=end))))  # (N,)
        size = len(text.encode("utf-8"))
        begins = np.cumsum([0, *(len(lm.tokenizer.token_bytes(token)) for token in ids[:-1])])  # (N,)
        parts = 1 if len(documents) >= ENOUGH else max(1, size // BLOCK)  # the last one is longer, not short
        units.append(_in_units(nats[-1], np.minimum(begins // BLOCK, parts - 1), parts, size))
    bits, sizes, counts = (np.concatenate(each) for each in zip(*units, strict=True))
    return TextScore(
        ratio(bits, sizes),
        ratio(bits * math.log(2), counts),
        int(counts.sum()),
        int(sizes.sum()),
        tuple(nats),
        bits,
        sizes,
    )


def _in_units(nats: np.ndarray, unit: np.ndarray, parts: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits, bytes and tokens in each unit of a document; `unit` (N,) is that of each token."""
    bits = np.bincount(unit, weights=nats.astype(np.float64), minlength=parts) / math.log(2)
    sizes = np.array([BLOCK] * (parts - 1) + [size - BLOCK * (parts - 1)])
    return bits, sizes, np.bincount(unit, minlength=parts)


def difference(of: TextScore, to: TextScore) -> Estimate:
    """By how many bits per byte the first reading exceeds the second, of the same text.

    Unit by unit, so that what makes one hard for both models does not add to the error.
    """
    return ratio(of.bits - to.bits, of.sizes)


def ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """The sum of one over the sum of the other, with the standard error of a ratio of means.

    Source: Cochran 1977, "Sampling Techniques", section 6.3, for units as drawn from endless text.

    Args:
        above: (n,).
        below: (n,), positive in sum.
    """
    total, n = float(below.sum()), len(above)
    value = float(above.sum()) / total
    if n < 2:
        return Estimate(value, None)
    rest = above - value * below
    return Estimate(value, math.sqrt(float(rest @ rest) * n / (n - 1)) / total)
