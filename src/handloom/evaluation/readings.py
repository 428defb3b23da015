"""How surprised models are at the same text, so that those with different tokenizers can be compared.

A text is cut into blocks of bytes, the same for every model, and a token's surprise belongs to the block in which
it begins. Sums over blocks are comparable where sums over tokens are not, and from their spread come the standard
errors. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from handloom.evaluation.surprise import surprises
from handloom.inference.text import LanguageModel

BLOCK = 512
"""Bytes of text in a block."""


@dataclass(frozen=True)
class Estimate:
    """A measured mean and its standard error; None where one block is all there is."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class Reading:
    """What a model made of a text."""

    bits_per_byte: Estimate
    nats_per_token: Estimate
    tokens: int
    bytes: int
    nats: tuple[np.ndarray, ...] = field(repr=False)
    """Of each document, (N,) float32: the surprise at each token."""
    bits_in_blocks: np.ndarray = field(repr=False)
    bytes_in_blocks: np.ndarray = field(repr=False)

    @property
    def perplexity(self) -> float:
        """e to the mean surprise of a token; between models with different tokenizers it says nothing."""
        return math.exp(self.nats_per_token.value)

    @property
    def perplexity_error(self) -> float | None:
        """Its standard error, to first order."""
        error = self.nats_per_token.standard_error
        return None if error is None else self.perplexity * error


def read(lm: LanguageModel, documents: Sequence[str], batch_size: int = 8) -> Reading:
    """Let a model read documents, each as a beginning, with the end of text before it.

    Every token is predicted from at least half a context before it, as far as its document has that.

    Args:
        lm: the model.
        documents: none of them empty.
        batch_size: windows read together; has no influence on the result beyond rounding.
    """
    context, end = lm.config.context, lm.tokenizer.end_of_text
    nats, bits, sizes, counts = [], [], [], []
    for ids, text in zip(lm.tokenizer.encode_batch(documents), documents, strict=True):
        found = np.concatenate(
            list(
                surprises(
                    lm.model,
                    ids,
                    context=context,
                    stride=max(1, context // 2),
                    batch_size=batch_size,
                    begin=end,
                )
            )
        )  # (N,)
        size = len(text.encode("utf-8"))
        blocks = max(1, size // BLOCK)  # the last one is longer rather than short
        begins = np.cumsum([0, *(len(lm.tokenizer.token_bytes(token)) for token in ids[:-1])])  # (N,)
        where = np.minimum(begins // BLOCK, blocks - 1)
        bits.append(np.bincount(where, weights=found.astype(np.float64), minlength=blocks) / math.log(2))
        counts.append(np.bincount(where, minlength=blocks))
        sizes.append(np.array([BLOCK] * (blocks - 1) + [size - BLOCK * (blocks - 1)]))
        nats.append(found)
    all_bits, all_sizes, all_counts = (np.concatenate(each) for each in (bits, sizes, counts))
    return Reading(
        ratio(all_bits, all_sizes),
        ratio(all_bits * math.log(2), all_counts),
        int(all_counts.sum()),
        int(all_sizes.sum()),
        tuple(nats),
        all_bits,
        all_sizes,
    )


def difference(of: Reading, to: Reading) -> Estimate:
    """By how many bits per byte the first reading exceeds the second, of the same text.

    Block by block, so that what makes a block hard for both models does not add to the error.
    """
    return ratio(of.bits_in_blocks - to.bits_in_blocks, of.bytes_in_blocks)


def ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """The sum of one over the sum of the other, with the standard error of a ratio of means.

    Source: Cochran 1977, "Sampling Techniques", section 2.11, for blocks as drawn from endless text.

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
