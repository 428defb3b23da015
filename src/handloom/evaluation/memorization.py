"""What of written texts stands word for word in a training text: the longest run, and 8-grams.

The written texts are short and the training text is long. So an automaton is built of the written ones, and the
training text runs through it once, in pieces, whatever its size. Knows no model and no tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from handloom.evaluation.diversity import ngrams, word_spans, words

GRAM = 8
"""Words in an n-gram that counts as copied."""

_NOTHING = ""  # stands between texts in the automaton; no character is empty, so nothing runs across it


@dataclass(frozen=True)
class Overlap:
    """A run of characters that a written text has in common with the training text."""

    start: int
    """Where it begins in the written text, in characters."""
    text: str
    document: str
    """A document of the training text in which it stands; not always the first."""
    offset: int
    """Where it begins there, in characters."""

    @property
    def characters(self) -> int:
        """Its length."""
        return len(self.text)


@dataclass(frozen=True)
class Copied:
    """What of one written text stands in the training text."""

    longest: Overlap | None
    """The longest common run, the first in the written text among equals; None if not one character is common."""
    grams: int
    """8-grams of words in the written text."""
    found: tuple[int, ...]
    """Which of them stand in the training text, by number of their first word."""

    @property
    def share(self) -> float | None:
        """The share of 8-grams that are copied; None for a text of fewer than 8 words."""
        return len(self.found) / self.grams if self.grams else None


@dataclass(frozen=True)
class Piece:
    """Some of a document. A document's pieces follow each other, and none is cut within a word."""

    document: str
    text: str
    ends: bool
    """Whether it is the last of its document."""


def search(texts: Sequence[str], training: Iterable[Piece]) -> list[Copied]:
    """Look for each text in the training text; a match never reaches from one document into the next.

    Spaces count in the longest overlap, and do not in 8-grams. Takes about a second for each MB.

    Args:
        texts: short ones, as a model wrote them.
        training: read once.

    Source of the share: McCoy et al. 2023, "How Much Do Language Models Copy From Their Training Data?", where
    n-grams that are not in it are called novel. Of the automaton: Blumer et al. 1985, "The Smallest Automaton
    Recognizing the Subwords of a Text".
    """
    automaton, grams = _Automaton(texts), _Grams(texts)
    for piece in training:
        automaton.read(piece)
        grams.read(piece)
    automaton.settle()
    found = [grams.of(text) for text in texts]
    return [
        Copied(automaton.longest(text), len(where), tuple(at for at, copied in enumerate(where) if copied))
        for text, where in zip(texts, found, strict=True)
    ]


def covered(text: str, copied: Copied) -> list[tuple[int, int]]:
    """The parts of a text that belong to copied 8-grams: ranges of characters, in order, that do not overlap."""
    spans = word_spans(text)
    ranges: list[tuple[int, int]] = []
    for first in copied.found:
        start, end = spans[first][0], spans[first + GRAM - 1][1]
        if ranges and start <= ranges[-1][1]:
            start = ranges.pop()[0]
        ranges.append((start, end))
    return ranges


class _Grams:
    """The 8-grams of the written texts, and which of them were met."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._wanted = {gram for text in texts for gram in ngrams(words(text), GRAM)}
        self._met: set[tuple[object, ...]] = set()
        self._before: list[str] = []  # the last words of the piece before, of the same document

    def read(self, piece: Piece) -> None:
        here = self._before + words(piece.text)
        self._met.update(self._wanted.intersection(ngrams(here, GRAM)))
        self._before = [] if piece.ends else here[-(GRAM - 1) :]

    def of(self, text: str) -> list[bool]:
        return [gram in self._met for gram in ngrams(words(text), GRAM)]


class _Automaton:
    """A suffix automaton of several texts, that notes how much of each state another text has matched.

    State 0 has read nothing. A state stands for runs of characters that end at the same places of the texts, the
    longest of them `_length` long; `_link` leads to the state of the longest one that also ends elsewhere.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._link = [-1]
        self._length = [0]
        last = 0
        for text in texts:
            for character in text:
                last = self._extend(last, character)
            last = self._extend(last, _NOTHING)
        self._matched = [0] * len(self._link)
        self._place: list[tuple[str, int]] = [("", 0)] * len(self._link)
        self._state, self._run, self._read = 0, 0, 0

    def _extend(self, last: int, character: str) -> int:
        state = self._new({}, self._length[last] + 1, 0)
        at = last
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

    def read(self, piece: Piece) -> None:
        """Follow a piece of the training text, and note at each state the longest run that led there."""
        following, link, length = self._next, self._link, self._length
        matched, place = self._matched, self._place
        state, run = self._state, self._run
        for at, character in enumerate(piece.text, start=self._read + 1):
            while state and character not in following[state]:
                state = link[state]
                run = length[state]
            if character in following[state]:
                state = following[state][character]
                run += 1
                if run > matched[state]:
                    matched[state] = run
                    place[state] = (piece.document, at - run)
        self._state, self._run, self._read = state, run, self._read + len(piece.text)
        if piece.ends:
            self._state = self._run = self._read = 0

    def settle(self) -> None:
        """What was matched at a state was matched, up to its length, at those that its links lead to."""
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
            state = self._next[state][character]
            at = state
            while at and not self._matched[at]:
                at = self._link[at]
            run = self._matched[at]
            if run > (best.characters if best else 0):
                document, offset = self._place[at]
                best = Overlap(end - run, text[end - run : end], document, offset)
        return best
