"""How varied texts are: distinct n-grams over all of them, and repetition within each.

Counts words, not tokens, so that models with different tokenizers can be compared. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and underscores, and each other sign that is no space."""
    return _WORD.findall(text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `words(text)` begins and ends, in characters."""
    return [found.span() for found in _WORD.finditer(text)]


@dataclass(frozen=True)
class Diversity:
    """How varied the texts of one model are."""

    words: int
    """In all texts together. Distinct shares fall as it grows."""
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    """Different n-grams of words over all n-grams, all texts together; None where there are none."""
    repeated_4: float | None
    """Share of 4-grams that were in the same text before, the mean over texts; None where no text has any."""


def diversity(texts: Sequence[str]) -> Diversity:
    """Measure texts that belong together.

    Args:
        texts: at least none; n-grams do not reach from one into the next.
    """
    each = [words(text) for text in texts]
    shares = [distinct(each, n) for n in (1, 2, 3)]
    return Diversity(sum(map(len, each)), shares[0], shares[1], shares[2], repeated(each))


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """How many different n-grams there are for each n-gram in `texts`; 1 if none comes twice.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", which
    divides by the number of words; dividing by that of n-grams, as is usual since, lets 1 be the most.
    """
    all_of_them = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(all_of_them)) / len(all_of_them) if all_of_them else None


def repeated(texts: Sequence[Sequence[Hashable]], n: int = 4) -> float | None:
    """The share of n-grams that are not the first of their kind in their text, the mean over texts.

    Source: seq-rep-n of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training".
    """
    shares = []
    for text in texts:
        if grams := list(ngrams(text, n)):
            shares.append(1 - len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else None


def ngrams(items: Sequence[Hashable], n: int) -> Iterator[tuple[Hashable, ...]]:
    """Every run of n items, in order."""
    return zip(*(islice(items, start, None) for start in range(n)), strict=False)
