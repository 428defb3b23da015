"""Byte-level byte pair encoding by hand: text -> pieces -> bytes -> merges -> ids, and back.

Adds the merges to the pieces of `pretokenize`. A merge joins two neighbouring tokens into one; merges are applied in
the order in which they were learned. Knows no tiktoken, not how merges are learned and not how they look on disk.

Sources: Sennrich et al. 2016 (BPE on words), Radford et al. 2019 (on bytes, after a split into pieces).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import Any, SupportsIndex

from handloom.errors import require_type
from handloom.tokenizer import hf_files, vocab_files
from handloom.tokenizer.hf_settings import PLAIN, TokenizerSettings
from handloom.tokenizer.pretokenize import AddedToken, AddedTokenMatcher, chunks, each_of, pretokenize

UNKNOWN = "\ufffd".encode()  # what an id outside the vocabulary decodes to

_NEVER = (-1, -1)
_CACHED_PIECES = 100_000  # with their ids; when full, the cache is emptied
_CACHED_LENGTH = 64  # bytes; longer pieces rarely repeat


@dataclass(frozen=True)
class MergeStep:
    """One merge in one piece: `left` + `right`, number `rank` (from 0), leaves `parts`, the new token at `place`."""

    left: bytes
    right: bytes
    rank: int
    parts: tuple[bytes, ...]
    place: int


@dataclass(frozen=True)
class PieceWork:
    """How one piece becomes ids: from single bytes (`start`) through `steps` to `ids`."""

    piece: str
    start: tuple[bytes, ...]
    steps: tuple[MergeStep, ...]
    ids: tuple[int, ...]


class BPETokenizer:
    """Byte-level BPE, determined by its merges (pairs of ids, in order), its vocabulary and its settings.

    The vocabulary has the id of each token as files spell it. Without one, ids are as GPT-2 has them: 0..255 the
    bytes, then one per merge in order, and last the end of text.
    """

    def __init__(
        self,
        merges: Sequence[tuple[int, int]],
        vocabulary: Mapping[str, int] | None = None,
        settings: TokenizerSettings = PLAIN,
    ) -> None:
        self.merges = [(int(left), int(right)) for left, right in merges]
        self.vocabulary = vocab_files.plain_vocabulary(self.merges) if vocabulary is None else dict(vocabulary)
        self.settings = settings
        words = {token: word for word, token in self.vocabulary.items()}
        self.tokens = [UNKNOWN] * (1 + max([*words, *(token.id for token in settings.added)]))
        for token, word in words.items():
            self.tokens[token] = vocab_files.bytes_of(word)
        for added in settings.added:
            self.tokens[added.id] = added.content.encode("utf-8", "replace")
        made = [self.vocabulary[words[left] + words[right]] for left, right in self.merges]
        self._made = {pair: (rank, made[rank]) for rank, pair in enumerate(self.merges)}
        unknown = self.vocabulary.get(settings.unk or "")
        self._bytes = [self.vocabulary.get(letter, unknown) for letter in vocab_files.LETTERS]
        self._unknown = None if all(letter in self.vocabulary for letter in vocab_files.LETTERS) else unknown
        self._whole = {self.tokens[token]: token for token in words} if settings.ignore_merges else {}
        self.in_order = self._in_order(made)
        self._matchers = [AddedTokenMatcher(self.all_added, special) for special in (False, True)]
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_files(cls, vocabulary: Path, merges: Path) -> BPETokenizer:
        """Read GPT-2's `vocab.json` (or encoder.json) and `merges.txt` (or vocab.bpe).

        Raises DataError for a file that is missing, incomplete, or does not describe a tokenizer of this kind.
        """
        words, pairs = vocab_files.read_pair(vocabulary, merges)
        return cls._of(hf_files.Found(words, pairs, (vocabulary, merges)))

    @classmethod
    def from_folder(cls, folder: Path, rows: int | None = None) -> BPETokenizer:
        """Read a folder's `tokenizer.json`, or its `vocab.json` and `merges.txt`, and the settings around them.

        `rows` is how many ids the model has: added special tokens beyond them are left out. Raises DataError as
        `from_files`, or for a key that Handloom does not support.
        """
        return cls._of(hf_files.read_folder(folder), rows)

    @classmethod
    def _of(cls, found: hf_files.Found, rows: int | None = None) -> BPETokenizer:
        settings, words = found.checked(rows), found.vocabulary
        return cls([(words[left], words[right]) for left, right in found.merges], words, settings)

    def __reduce__(self) -> tuple[type[BPETokenizer], tuple[Any, ...]]:
        return type(self), (self.merges, self.vocabulary, self.settings)  # without the cache, for worker processes

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return len(self.tokens)

    @property
    def eos_token_id(self) -> int:
        """The last id, unless the files name another."""
        last = len(self.tokens) - 1
        return last if self.settings.eos_token_id is None else self.settings.eos_token_id

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a generated text."""
        return self.settings.eos_token_ids or (self.eos_token_id,)

    @cached_property
    def unused_ids(self) -> tuple[int, ...]:
        """The ids below the highest without a token."""
        known = {*self.vocabulary.values(), *(token.id for token in self.settings.added)}
        return tuple(token for token in range(len(self.tokens)) if token not in known)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over vocabulary and merges as `save` writes them, and over the settings that change ids."""
        text = "".join(vocab_files.as_text(self.vocabulary, self.word_merges))
        return hashlib.sha256((text + hf_files.distinct(self)).encode()).hexdigest()

    @property
    def lacks_bytes(self) -> bool:
        """Whether a byte has no token of its own, so that `unk` stands for it."""
        return self._unknown is not None

    @property
    def all_added(self) -> tuple[AddedToken, ...]:
        """The added tokens, the end of text among them."""
        found = self.settings.added
        if any(token.id == self.eos_token_id for token in found):
            return found
        return (*found, AddedToken(self.eos_token_id, self.tokens[self.eos_token_id].decode(), special=True))

    @property
    def word_merges(self) -> list[vocab_files.Merge]:
        """The merges as the files spell them."""
        words = {token: word for word, token in self.vocabulary.items()}
        return [(words[left], words[right]) for left, right in self.merges]

    def encode(self, text: str, *, special: bool = False, stand_ins: Mapping[int, str] | None = None) -> list[int]:
        """Ids of `text`, in which special tokens are ordinary text unless `special`; a lone surrogate is U+FFFD.

        `stand_ins` are characters that replace others in ordinary text, so that no special token is found there. Time
        grows as n log n with the longest piece and linearly with the number of pieces.
        """
        prefix = self.settings.add_prefix_space
        return self._matchers[special].encode(text, self._encode, add_prefix_space=prefix, stand_ins=stand_ins)

    def _encode(self, text: str) -> list[int]:
        """Ids of what stands between added tokens."""
        ids: list[int] = []
        for chunk in chunks(text):
            ids += self._encode_chunk(chunk)
        return ids

    def _encode_chunk(self, chunk: str) -> list[int]:
        ids: list[int] = []
        for piece in pretokenize(chunk):
            if (known := self._cache.get(piece)) is None:
                data = piece.encode("utf-8")
                known = self.encode_piece(data)
                if len(data) <= _CACHED_LENGTH:
                    if len(self._cache) >= _CACHED_PIECES:
                        self._cache.clear()
                    self._cache[piece] = known
            ids += known
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each text."""
        return [self.encode(text) for text in each_of(texts)]

    def encode_piece(self, piece: bytes) -> list[int]:
        """Merge the bytes of one piece: always the earliest learned merge first, then the leftmost.

        A heap yields the next merge, and a linked list closes the gap that it leaves: n log n steps for n bytes.
        Searching the whole piece for each merge would take n squared.
        """
        if (whole := self._whole.get(piece)) is not None:
            return [whole]
        ids = self._start(piece)
        n = len(ids)
        before, after = list(range(-1, n - 1)), list(range(1, n + 1))  # neighbours still alive
        made = self._made
        heap = [(*made[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in made]
        heapify(heap)
        while heap:
            _, token, i = heappop(heap)
            j = after[i]
            if j == n or made.get((ids[i], ids[j]), _NEVER)[1] != token:
                continue  # one of the two has been merged with its other neighbour meanwhile
            ids[i], ids[j] = token, -1
            after[i] = k = after[j]
            if k < n:
                before[k] = i
                if (token, ids[k]) in made:
                    heappush(heap, (*made[token, ids[k]], i))
            h = before[i]
            if h >= 0 and (ids[h], token) in made:
                heappush(heap, (*made[ids[h], token], h))
        return [token for token in ids if token >= 0]

    def _start(self, piece: bytes) -> list[int]:
        """The ids of single bytes; one for several unknown ones in a row, with `fuse_unk`."""
        found = [self._bytes[number] for number in piece.translate(vocab_files.ID_OF_BYTE)]
        ids = [token for token in found if token is not None]
        if self._unknown is None or not self.settings.fuse_unk:
            return ids
        return [token for at, token in enumerate(ids) if not (at and token == self._unknown == ids[at - 1])]

    def _in_order(self, made: Sequence[int]) -> list[int] | None:
        """Ids of the bytes and of what each merge makes, where tiktoken encodes alike; else None.

        It does where all bytes have tokens, each merge makes a token of its own, and each of these is reached.
        """
        order = [token for token in self._bytes if token is not None] + list(made)
        number = {token: at for at, token in enumerate(order)}
        if self._unknown is not None or len(number) < 256 + len(made) or self._whole:
            return None
        pairs = [(number.get(left, -1), number.get(right, -1)) for left, right in self.merges]
        earlier = all(min(pair) >= 0 and max(pair) < at for at, pair in enumerate(pairs, 256))
        return order if earlier and vocab_files.always_reached(pairs) else None

    def decode(self, ids: Iterable[int]) -> str:
        """Text of any ids whatever: an unknown id or bytes that are not UTF-8 become U+FFFD."""
        require_type(ids, "What should be ids", Iterable, "a list of int")
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Bytes that one id stands for (of U+FFFD for an unknown id); they may be part of a character."""
        require_type(token, "The token", SupportsIndex, "an int")
        return self.tokens[token] if 0 <= token < len(self.tokens) else UNKNOWN

    def save(self, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        """Write `vocab.json` and `merges.txt` into `folder`, and `tokenizer.json` with its settings where they differ
        from GPT-2's, or `config` (further keys of `tokenizer_config.json`) is given; DataError where it cannot be."""
        names = (vocab_files.VOCABULARY, vocab_files.MERGES)
        pair = dict(zip(names, vocab_files.as_text(self.vocabulary, self.word_merges), strict=True))
        plain = self.settings == PLAIN and config is None
        vocab_files.write(folder, pair if plain else pair | hf_files.contents(self, config or {}))

    def show_work(self, text: str) -> list[PieceWork]:
        """Every step of `encode`, one entry per piece, computed the slow and plain way."""
        space = " " if self.settings.add_prefix_space and text and not text.startswith(" ") else ""
        return [self._show_piece(piece) for piece in pretokenize(space + text)]

    def _show_piece(self, piece: str) -> PieceWork:
        ids = self._start(piece.encode("utf-8"))
        start = tuple(self.tokens[token] for token in ids)
        steps: list[MergeStep] = []
        while True:
            pairs = [pair for pair in pairwise(ids) if pair in self._made]
            if not pairs:
                return PieceWork(piece, start, tuple(steps), tuple(ids))
            earliest = min(pairs, key=self._made.__getitem__)
            i = next(i for i in range(len(ids)) if (ids[i], ids[i + 1]) == earliest)  # the leftmost
            left, right = ids[i], ids[i + 1]
            rank, token = self._made[earliest]
            ids[i : i + 2] = [token]
            parts = tuple(self.tokens[token] for token in ids)
            steps.append(MergeStep(self.tokens[left], self.tokens[right], rank, parts, place=i))
