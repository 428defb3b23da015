"""What is measured of generated texts as texts: diversity of n-grams, and verbatim copies of a training text.

Counts words, not tokens, so that models with different tokenizers can be compared. Knows no model. For copies, a suffix
automaton is built of the generated texts, which are short, and the training text, which is long, streams through it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

GRAM = 8
"""Words in an n-gram that counts as copied."""
_WORD = re.compile(r"\w+|[^\w\s]")
_SEPARATOR = ""  # between texts in the automaton; no character is empty, so no run crosses it


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


# Copies


@dataclass(frozen=True)
class TrainingPiece:
    """A part of a document. A document's pieces follow each other, and none is cut within a word."""

    document: str
    text: str
    ends: bool
    """Whether it is the last of its document."""


@dataclass(frozen=True)
class Overlap:
    """A run of characters that a generated text shares with the training text; offsets are in characters."""

    start: int
    """In the generated text."""
    text: str
    document: str
    """A document of the training text that contains it; not always the first."""
    offset: int
    """In that document."""

    @property
    def characters(self) -> int:
        """The length of the run."""
        return len(self.text)


@dataclass(frozen=True)
class Copied:
    """What of one generated text stands in the training text."""

    longest: Overlap | None
    """The longest common run, the first in the generated text among equals; None if not one character is common."""
    grams: int
    """8-grams of words in the generated text."""
    found: tuple[int, ...]
    """Which of them stand in the training text, by number of their first word."""

    @property
    def share(self) -> float | None:
        """The ratio of 8-grams that are copied; None for a text of fewer than 8 words."""
        return len(self.found) / self.grams if self.grams else None


@dataclass(frozen=True)
class OverlapStats:
    """Copies in several texts together."""

    grams: int
    copied: int
    longest: Overlap | None
    mean_longest: float
    """The longest overlap of a text in characters, the mean over texts."""

    @property
    def share(self) -> float | None:
        """Copied 8-grams over all; None where no text has 8 words."""
        return self.copied / self.grams if self.grams else None

    @classmethod
    def of(cls, each: Sequence[Copied]) -> OverlapStats:
        """The sums over texts."""
        lengths = [one.longest.characters if one.longest else 0 for one in each]
        longest = each[lengths.index(max(lengths))].longest if each else None
        grams, copied = sum(one.grams for one in each), sum(len(one.found) for one in each)
        return cls(grams, copied, longest, sum(lengths) / max(1, len(lengths)))


def search(texts: Sequence[str], training: Iterable[TrainingPiece]) -> list[Copied]:
    """Look for each text in the training text, which is read once; no match crosses the end of a document.

    Spaces count in the longest overlap, and do not in 8-grams. Takes about a second for each MB.

    Sources: McCoy et al. 2023, "How Much Do Language Models Copy From Their Training Data?", which calls n-grams that
    are not in it novel; Blumer et al. 1985, "The Smallest Automaton Recognizing the Subwords of a Text".
    """
    automaton = _Automaton(texts)
    grams = [list(ngrams(words(text), GRAM)) for text in texts]
    wanted = {gram for each in grams for gram in each}
    met: set[tuple[object, ...]] = set()
    before: list[str] = []  # the last words of the piece before, of the same document
    for piece in training:
        automaton.read(piece)
        here = before + words(piece.text)
        met.update(wanted.intersection(ngrams(here, GRAM)))
        before = [] if piece.ends else here[-(GRAM - 1) :]
    automaton.settle()
    return [
        Copied(automaton.longest(text), len(mine), tuple(at for at, gram in enumerate(mine) if gram in met))
        for text, mine in zip(texts, grams, strict=True)
    ]


def copied_ranges(text: str, copied: Copied) -> list[tuple[int, int]]:
    """The parts of a text that belong to copied 8-grams: ranges of characters, in order, without overlap."""
    spans = word_spans(text)
    ranges: list[tuple[int, int]] = []
    for first in copied.found:
        start, end = spans[first][0], spans[first + GRAM - 1][1]
        if ranges and start <= ranges[-1][1]:
            start = ranges.pop()[0]
        ranges.append((start, end))
    return ranges


class _Automaton:
    """A suffix automaton of several texts that records, for each state, the longest run of another text leading there.

    State 0 is the empty run. A state stands for runs of characters that end at the same places of the texts, the
    longest of them `_length` long; `_link` leads to the state of the longest one that also ends elsewhere.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._link, self._length = [-1], [0]
        last = 0
        for text in texts:
            for character in (*text, _SEPARATOR):
                last = self._extend(last, character)
        self._matched = [0] * len(self._link)
        self._place: list[tuple[str, int]] = [("", 0)] * len(self._link)
        self._state, self._run, self._position = 0, 0, 0

    def _extend(self, last: int, character: str) -> int:
        state, at = self._new({}, self._length[last] + 1, 0), last
        while at >= 0 and character not in self._next[at]:
            self._next[at][character] = state
            at = self._link[at]
        if at < 0:
            return state
        after = self._next[at][character]
        if self._length[after] == self._length[at] + 1:
            self._link[state] = after
            return state
        twin = self._new(dict(self._next[after]), self._length[at] + 1, self._link[after])
        while at >= 0 and self._next[at].get(character) == after:
            self._next[at][character] = twin
            at = self._link[at]
        self._link[after] = self._link[state] = twin
        return state

    def _new(self, then: dict[str, int], length: int, link: int) -> int:
        self._next.append(then)
        self._length.append(length)
        self._link.append(link)
        return len(self._link) - 1

    def read(self, piece: TrainingPiece) -> None:
        """Follow a piece of the training text."""
        following, link, length, matched, place = self._next, self._link, self._length, self._matched, self._place
        state, run = self._state, self._run
        for at, character in enumerate(piece.text, start=self._position + 1):
            while state and character not in following[state]:
                state = link[state]
                run = length[state]
            if character in following[state]:
                state = following[state][character]
                run += 1
                if run > matched[state]:
                    matched[state] = run
                    place[state] = (piece.document, at - run)
        self._state, self._run, self._position = state, run, self._position + len(piece.text)
        if piece.ends:
            self._state = self._run = self._position = 0

    def settle(self) -> None:
        """A run matched at a state is matched, up to their lengths, at the states that its links lead to."""
        for state in sorted(range(1, len(self._link)), key=self._length.__getitem__, reverse=True):
            run, above = self._matched[state], self._link[state]
            if run and self._matched[above] < self._length[above]:
                document, begin = self._place[state]
                self._matched[above] = self._length[above]
                self._place[above] = (document, begin + run - self._length[above])

    def longest(self, text: str) -> Overlap | None:
        """The longest run of one of the texts that was matched."""
        best: Overlap | None = None
        state = 0
        for end, character in enumerate(text, start=1):
            state = at = self._next[state][character]
            while at and not self._matched[at]:
                at = self._link[at]
            run = self._matched[at]
            if run > (best.characters if best else 0):
                best = Overlap(end - run, text[end - run : end], *self._place[at])
        return best
