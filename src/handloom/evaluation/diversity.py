"""Diversity of texts: distinct n-grams over all of them, and repetition within each.

Counts words, not tokens, so that models with different tokenizers can be compared. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, and every other character that is not white space."""
    return _WORD.findall(text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `words(text)` begins and ends, in characters."""
    return [found.span() for found in _WORD.finditer(text)]


def ngrams(items: Sequence[Hashable], n: int) -> Iterator[tuple[Hashable, ...]]:
    """Every run of n items, in order."""
    return zip(*(islice(items, start, None) for start in range(n)), strict=False)


@dataclass(frozen=True)
class Diversity:
    """Ratios over the texts of one model; None where there are no n-grams."""

    words: int
    """In all texts together; distinct ratios fall as it grows."""
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    repeated_4: float | None


def diversity(texts: Sequence[str]) -> Diversity:
    """Measure texts that belong together; n-grams do not reach from one into the next."""
    each = [words(text) for text in texts]
    ratios = {f"distinct_{n}": distinct(each, n) for n in (1, 2, 3)}
    return Diversity(sum(map(len, each)), **ratios, repeated_4=repeated(each))


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """Different n-grams over all n-grams, all texts together; 1 if none comes twice.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", which divides by
    the number of words; dividing by that of n-grams is usual since.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repeated(texts: Sequence[Sequence[Hashable]], n: int = 4) -> float | None:
    """The ratio of n-grams that came before in their text, the mean over texts.

    Source: seq-rep-n of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training".
    """
    each = [grams for text in texts if (grams := list(ngrams(text, n)))]
    return sum(1 - len(set(grams)) / len(grams) for grams in each) / len(each) if each else None
