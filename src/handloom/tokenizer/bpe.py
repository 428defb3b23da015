"""Byte-level byte pair encoding by hand: text -> pieces -> bytes -> merges -> ids, and back.

Adds the merges to the pieces of split.py. A merge says: where these two tokens stand side by side, they
are one token. Merges are applied in the order in which they were learned. Knows no tiktoken, and not
how merges are learned or how they look on disk.

Sources: Sennrich et al. 2016 (BPE on words), Radford et al. 2019 (on bytes, after a split into pieces).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path

from handloom.tokenizer import files
from handloom.tokenizer.base import END_OF_TEXT
from handloom.tokenizer.split import chunks, split, well_formed

UNKNOWN = "\ufffd".encode()  # what an id outside the vocabulary decodes to

_CACHED_PIECES = 100_000  # pieces remembered with their ids; when full, it starts anew
_CACHED_LENGTH = 64  # bytes; longer pieces hardly come twice


@dataclass(frozen=True)
class MergeStep:
    """One merge in one piece.

    `left` + `right` is merge number `rank` (from 0); it leaves `parts`, the new token at `parts[place]`.
    """

    left: bytes
    right: bytes
    rank: int
    parts: tuple[bytes, ...]
    place: int


@dataclass(frozen=True)
class PieceWork:
    """How one piece became ids: from single bytes (`start`) through `steps` to `ids`."""

    piece: str
    start: tuple[bytes, ...]
    steps: tuple[MergeStep, ...]
    ids: tuple[int, ...]


class BPETokenizer:
    """Byte-level BPE, fully determined by its merges.

    Ids: 0..255 the bytes in GPT-2's order, then one per merge in order, and last the end of text.

    Args:
        merges: pairs of ids; number n makes the token 256 + n of two tokens that exist before it.
    """

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        self.merges = [(int(left), int(right)) for left, right in merges]
        self.tokens = [bytes([byte]) for byte in files.BYTE_ORDER]
        for left, right in self.merges:
            self.tokens.append(self.tokens[left] + self.tokens[right])
        self.tokens.append(END_OF_TEXT.encode())
        self._made = {pair: token for token, pair in enumerate(self.merges, start=256)}
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_files(cls, vocabulary: Path, merges: Path) -> BPETokenizer:
        """Read GPT-2's pair of files: `vocab.json` (or encoder.json) and `merges.txt` (or vocab.bpe).

        Raises:
            DataError: a file is missing, torn, or does not describe a tokenizer of this kind.
        """
        pairs = files.read_merges(vocabulary, merges)
        files.check_reachable(pairs, merges)
        return cls(pairs)

    @classmethod
    def from_folder(cls, folder: Path) -> BPETokenizer:
        """`from_files` with the names that `save` gives; without those files, `tokenizer.json`."""
        if not (folder / files.VOCABULARY).exists() and (folder / files.SINGLE).is_file():
            pairs = files.read_single(folder / files.SINGLE)
            files.check_reachable(pairs, folder / files.SINGLE)
            return cls(pairs)
        return cls.from_files(folder / files.VOCABULARY, folder / files.MERGES)

    def __reduce__(self) -> tuple[type[BPETokenizer], tuple[list[tuple[int, int]]]]:
        return type(self), (self.merges,)  # small, and without the cache: workers are handed tokenizers

    @property
    def vocab_size(self) -> int:
        """256 bytes, the merges, and the end of text."""
        return len(self.tokens)

    @property
    def end_of_text(self) -> int:
        """The last id."""
        return len(self.tokens) - 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the two files as `save` writes them."""
        return hashlib.sha256("".join(files.as_text(self.tokens, self.merges)).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, all of it ordinary text; a lone surrogate counts as U+FFFD.

        Time grows as n log n with the longest piece and linearly with the number of pieces.
        """
        ids: list[int] = []
        for chunk in chunks(well_formed(text)):
            for piece in split(chunk):
                known = self._cache.get(piece)
                ids += self._remember(piece) if known is None else known
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each text."""
        return [self.encode(text) for text in texts]

    def encode_piece(self, piece: bytes) -> list[int]:
        """Merge the bytes of one piece: always the earliest learned merge first, then the leftmost.

        A heap hands out the next merge, and a linked list closes the gap that it leaves: n log n steps
        for n bytes. Looking for the next merge in the whole piece each time would take n squared.
        """
        ids = list(piece.translate(files.ID_OF_BYTE))
        n = len(ids)
        before, after = list(range(-1, n - 1)), list(range(1, n + 1))  # neighbours still alive
        made = self._made
        heap = [(made[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in made]
        heapify(heap)
        while heap:
            token, i = heappop(heap)
            j = after[i]
            if j == n or made.get((ids[i], ids[j])) != token:
                continue  # one of the two has been merged with its other neighbour meanwhile
            ids[i], ids[j] = token, -1
            after[i] = k = after[j]
            if k < n:
                before[k] = i
                if (token, ids[k]) in made:
                    heappush(heap, (made[token, ids[k]], i))
            h = before[i]
            if h >= 0 and (ids[h], token) in made:
                heappush(heap, (made[ids[h], token], h))
        return [token for token in ids if token >= 0]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of any ids whatever: an unknown id or bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Bytes that one id stands for (of U+FFFD for an unknown id); they may be part of a character."""
        return self.tokens[token] if 0 <= token < len(self.tokens) else UNKNOWN

    def save(self, folder: Path) -> None:
        """Write `vocab.json` and `merges.txt` into `folder`, which is made if need be.

        Raises:
            DataError: the folder cannot be written.
        """
        files.write(folder, self.tokens, self.merges)

    def show_work(self, text: str) -> list[PieceWork]:
        """Every step of `encode`, piece by piece, done the slow and plain way.

        Returns:
            One entry per piece; the ids of all entries together are `encode(text)`.
        """
        return [self._show_piece(piece) for piece in split(text)]

    def _show_piece(self, piece: str) -> PieceWork:
        ids = list(piece.encode("utf-8").translate(files.ID_OF_BYTE))
        start = tuple(self.tokens[token] for token in ids)
        steps: list[MergeStep] = []
        while True:
            pairs = [pair for pair in pairwise(ids) if pair in self._made]
            if not pairs:
                return PieceWork(piece, start, tuple(steps), tuple(ids))
            earliest = min(pairs, key=self._made.__getitem__)
            i = next(i for i in range(len(ids)) if (ids[i], ids[i + 1]) == earliest)  # the leftmost
            left, right = ids[i], ids[i + 1]
            ids[i : i + 2] = [self._made[earliest]]
            parts = tuple(self.tokens[token] for token in ids)
            steps.append(MergeStep(self.tokens[left], self.tokens[right], ids[i] - 256, parts, place=i))

    def _remember(self, piece: str) -> list[int]:
        data = piece.encode("utf-8")
        ids = self.encode_piece(data)
        if len(data) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHED_PIECES:
                self._cache.clear()
            self._cache[piece] = ids
        return ids
