"""Texts that are equal: exactly, but for case and white space, or nearly. Texts are not kept.

Nearly equal are two texts whose sets of three words in a row have four fifths in common. MinHash estimates that from
the least values of 64 hash functions on the set (Broder, "On the resemblance and containment of documents", 1997);
candidates agree in a band of four of these (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4).
Memory is about 600 bytes a text, whatever its length. Knows no files.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from array import array
from collections.abc import Iterator

import numpy as np

HASHES = 64
BAND = 4  # with 16 bands of 4, two texts that share 0.8 become candidates with a probability above 0.999
SHINGLE = 3  # words in a row; more are usual for pages, but examples are short
LEAST_WORDS = 12  # of shorter texts a word more or less decides too much
ALIKE = 0.8

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")  # where no spaces part words, each sign is one
_CHUNK = 4096


def _constants(name: bytes, n: int) -> np.ndarray:
    """(n,) uint64, random but the same everywhere."""
    return np.frombuffer(hashlib.shake_128(name).digest(n * 8), dtype="<u8")


_TIMES = _constants(b"times", HASHES)[:, None] | np.uint64(1)  # (HASHES, 1)
_PLUS = _constants(b"plus", HASHES)[:, None]  # (HASHES, 1)
_PLACE = _constants(b"place", SHINGLE) | np.uint64(1)  # (SHINGLE,)


def normalize(text: str) -> str:
    """`text` without differences of case, white space and width of letters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class Fingerprint:
    """What is kept of a text to compare it by. The text comes in pieces, each of which begins where a word does.

    `exact` is what copies have in common, by default the text itself.
    """

    def __init__(self, exact: str | None = None) -> None:
        self._is_text = exact is None
        self._exact, self._loose = hashlib.sha256((exact or "").encode("utf-8", "surrogatepass")), hashlib.sha256()
        self._least = np.full(HASHES, 2**32 - 1, dtype=np.uint64)  # (HASHES,)
        self._last = np.empty(0, dtype=np.uint64)
        self.words = 0  # separated by white space
        self._signs = 0

    def add(self, text: str) -> None:
        """The next piece."""
        loose = normalize(text)
        if self._is_text:
            self._exact.update(text.encode("utf-8"))
        if loose:
            self._loose.update(f"{loose} ".encode())
            self.words += loose.count(" ") + 1
        words = [zlib.crc32(word.encode("utf-8")) for word in _WORD.findall(loose)]
        self._signs += len(words)
        hashes = np.concatenate([self._last, np.array(words, dtype=np.uint64)])
        n = len(hashes) - SHINGLE + 1
        self._last = hashes[-(SHINGLE - 1) :]
        for start in range(0, n, _CHUNK):
            end = min(n, start + _CHUNK)
            windows = np.lib.stride_tricks.sliding_window_view(hashes, SHINGLE)[start:end]  # (n, SHINGLE)
            shingles = (windows * _PLACE).sum(axis=1, dtype=np.uint64)  # (n,)
            values = (_TIMES * (shingles ^ (shingles >> np.uint64(29))) + _PLUS) >> np.uint64(32)
            self._least = np.minimum(self._least, values.min(axis=1))

    @property
    def exact(self) -> bytes:
        """Equal for copies."""
        return self._exact.digest()[:16]

    @property
    def loose(self) -> bytes:
        """Equal for texts that differ in case and white space only."""
        return self._loose.digest()[:16]

    @property
    def signature(self) -> bytes:
        """(HASHES,) uint32; empty for a text of few words."""
        return self._least.astype(np.uint32).tobytes() if self._signs >= LEAST_WORDS else b""


class NearDuplicates:
    """Fingerprints of all texts, by the texts' numbers."""

    def __init__(self) -> None:
        self._exact: dict[bytes, int] = {}
        self._loose: dict[bytes, int] = {}
        self._signatures = bytearray()
        self._signed = array("q")
        self.exact: list[tuple[int, int]] = []  # number of a text, and of an earlier one that is equal
        self.loose: list[tuple[int, int]] = []  # the same, but for case and white space

    def add(self, number: int, found: Fingerprint) -> None:
        """One more text."""
        if (earlier := self._exact.setdefault(found.exact, number)) != number:
            self.exact.append((number, earlier))
        elif (earlier := self._loose.setdefault(found.loose, number)) != number:
            self.loose.append((number, earlier))
        elif signature := found.signature:
            self._signatures += signature
            self._signed.append(number)

    def similar(self) -> Iterator[tuple[int, int, float]]:
        """Number of a text, of an earlier one nearly equal, and the estimated share they have in common.

        Copies are not among them. Each text comes once at most, with the earliest in one of its bands.
        """
        signatures = np.frombuffer(self._signatures, dtype=np.uint32).reshape(-1, HASHES)
        found: dict[int, tuple[int, float]] = {}
        for start in range(0, HASHES, BAND):
            band = np.ascontiguousarray(signatures[:, start : start + BAND])  # (n, BAND)
            keys = band.view(f"V{BAND * 4}").reshape(-1)  # (n,)
            order = np.argsort(keys, kind="stable")
            first = -1
            for at in order.tolist():
                if first < 0 or keys[at] != keys[first]:
                    first = at
                    continue
                share = float((signatures[at] == signatures[first]).mean())
                if share >= ALIKE and (at not in found or first < found[at][0]):
                    found[at] = (first, share)
        for at, (first, share) in sorted(found.items()):
            yield self._signed[at], self._signed[first], share
