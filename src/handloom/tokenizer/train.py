"""Train a byte-level BPE: learn its merges from text.

The most frequent pair of neighbouring tokens becomes a token, again and again. What makes it fast: equal
pieces are counted once and carry a weight; a merge visits only the places where its pair stands, and only
the pairs around them change their counts. Knows no files.

Sources: Sennrich et al. 2016; the book-keeping of counts is as in their subword-nmt.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import pairwise

from handloom.errors import ConfigError, require_type
from handloom.tokenizer import vocab_files
from handloom.tokenizer.bpe import BPETokenizer
from handloom.tokenizer.pretokenize import chunks, each_of, pretokenize, well_formed

MIN_VOCAB_SIZE = 257  # 256 bytes and the end of text

Pair = tuple[int, int]


def train_bpe(
    texts: Iterable[str], vocab_size: int, *, on_progress: Callable[[int, int], None] | None = None
) -> BPETokenizer:
    """Train a tokenizer on text, which is read once; only the different pieces and their counts are kept.

    Each merge takes the pair that occurs most often (in 'aaa' the pair 'a','a' occurs twice); among equally frequent
    ones, the pair with the smallest ids. So the merges depend on nothing but the text.

    `vocab_size` counts 256 bytes, the merges, and the end of text; it ends smaller when no pair occurs twice any more,
    and below 257 is a ConfigError. `on_progress` gets (merges made, merges wanted) after each merge.
    """
    require_type(vocab_size, "The size of the vocabulary", int, "an int")
    wanted = vocab_size - MIN_VOCAB_SIZE
    if wanted < 0:
        raise ConfigError(
            f"A vocabulary of {vocab_size} is too small: {MIN_VOCAB_SIZE} are there before any merge.",
            "Choose a larger one; 4,096 suits a few megabytes of text.",
            setting="vocab_size",
        )
    pieces: Counter[str] = Counter()
    for text in each_of(texts):
        for chunk in chunks(well_formed(text)):
            pieces.update(pretokenize(chunk))
    board = _Board(pieces)
    heap = [(-count, pair) for pair, count in board.counts.items()]
    heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < wanted:
        count, pair = heappop(heap)
        now = board.counts[pair]
        if now < 2:
            continue
        if now != -count:  # other merges have taken some of its places since it was pushed
            heappush(heap, (-now, pair))
            continue
        made = board.merge(pair, 256 + len(merges))
        merges.append(pair)
        for new in made:
            heappush(heap, (-board.counts[new], new))
        if on_progress:
            on_progress(len(merges), wanted)
    return BPETokenizer(merges)


class _Board:
    """Every different piece laid out once, as a linked list of ids, with counts of all adjacent pairs.

    An id that has been merged into its left neighbour leaves -1 behind. Arrays rather than lists: the
    pieces of a large corpus make tens of millions of entries.
    """

    def __init__(self, pieces: Mapping[str, int]) -> None:
        self.ids = array("i")
        self.before = array("i")  # place of the left neighbour, -1 at the start of a piece
        self.after = array("i")  # place of the right neighbour, -1 at the end
        self.weight = array("q")  # how often the piece occurs
        self.counts: dict[Pair, int] = {}
        self.places: dict[Pair, array[int]] = {}  # of the left id; some may be out of date
        for piece, weight in pieces.items():
            ids = piece.encode("utf-8").translate(vocab_files.ID_OF_BYTE)
            start, end = len(self.ids), len(self.ids) + len(ids)
            self.ids.extend(ids)
            self.before.extend([-1, *range(start, end - 1)])
            self.after.extend([*range(start + 1, end), -1])
            self.weight.extend([weight] * len(ids))
            for place, pair in enumerate(pairwise(ids), start):
                self._gain(pair, place, weight)

    def _gain(self, pair: Pair, place: int, weight: int) -> None:
        if pair in self.counts:
            self.counts[pair] += weight
            self.places[pair].append(place)
        else:
            self.counts[pair] = weight
            self.places[pair] = array("i", [place])

    def merge(self, pair: Pair, new: int) -> set[Pair]:
        """Put `new` wherever `pair` stands, left to right; returns the pairs that this created."""
        ids, before, after, counts = self.ids, self.before, self.after, self.counts
        made: set[Pair] = set()
        for i in sorted(self.places.pop(pair)):
            j = after[i]
            if j < 0 or (ids[i], ids[j]) != pair:
                continue  # taken by an earlier merge, or by this one in a run such as 'aaa'
            weight = self.weight[i]
            h, k = before[i], after[j]
            ids[i], ids[j], after[i] = new, -1, k
            if h >= 0:
                counts[ids[h], pair[0]] -= weight
                self._gain((ids[h], new), h, weight)
                made.add((ids[h], new))
            if k >= 0:
                before[k] = i
                counts[pair[1], ids[k]] -= weight
                self._gain((new, ids[k]), i, weight)
                made.add((new, ids[k]))
        counts[pair] = 0
        return made
