"""A token shard: one file of token ids, memory-mapped, that says what it is and whether it is whole.

    256 bytes   header: magic, version, bytes per token, counts, fingerprint of the tokenizer,
                SHA-256 of everything behind the header, and a CRC-32 of the header itself
    tokens      uint16 if every id fits, else uint32; little-endian
    ends        uint64 for each document: the offset behind its last token
    names       of the documents, UTF-8, one a line

A shard is written under a temporary name, synced, and renamed, so the final name never holds half
of one. Knows no text and no tokenizer, only the fingerprint it is given.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from handloom.errors import DataError

MAGIC = b"HANDLOOM"
VERSION = 1
HEADER_BYTES = 256
# Up to this size opening checks every byte (well under a second); beyond, on request only.
CHEAP_TO_VERIFY = 256 << 20
_HEADER = struct.Struct("<8sIIQQQQ32s32s")
_CRC = struct.Struct("<I")


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type on disk that holds every id: little-endian uint16 or uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class Header:
    """What a shard says about itself."""

    token_bytes: int
    n_tokens: int
    n_bytes: int
    n_documents: int
    names_bytes: int
    fingerprint: bytes
    checksum: bytes

    def pack(self) -> bytes:
        """The 256 bytes on disk."""
        counts = (self.n_tokens, self.n_bytes, self.n_documents, self.names_bytes)
        body = _HEADER.pack(MAGIC, VERSION, self.token_bytes, *counts, self.fingerprint, self.checksum)
        body = body.ljust(HEADER_BYTES - _CRC.size, b"\0")
        return body + _CRC.pack(zlib.crc32(body))

    @property
    def file_bytes(self) -> int:
        """Length of the whole file."""
        return HEADER_BYTES + self.n_tokens * self.token_bytes + self.n_documents * 8 + self.names_bytes


class Shard:
    """An open shard. Nothing is read before it is asked for.

    Attributes:
        tokens: (n_tokens,) uint16 or uint32, memory-mapped, read-only.
        n_bytes: UTF-8 bytes of the text that the tokens stand for, end-of-text not counted.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.n_tokens = header.n_tokens
        self.n_bytes = header.n_bytes
        self.n_documents = header.n_documents
        self.fingerprint = header.fingerprint.hex()
        self._header = header
        self.tokens = self._map(HEADER_BYTES, f"<u{header.token_bytes}", header.n_tokens)

    @cached_property
    def ends(self) -> np.ndarray:
        """(n_documents,) uint64: the offset behind each document's last token."""
        return self._map(HEADER_BYTES + self.tokens.nbytes, "<u8", self.n_documents)

    @cached_property
    def names(self) -> list[str]:
        """The documents' names, as they were when the shard was written."""
        with self.path.open("rb") as file:
            file.seek(self._header.file_bytes - self._header.names_bytes)
            return file.read().decode("utf-8").split("\n")[:-1]

    def document_at(self, offset: int) -> int:
        """Number, from 0, of the document that the token at `offset` belongs to."""
        return int(np.searchsorted(self.ends, offset, side="right"))

    def _map(self, offset: int, dtype: str, count: int) -> np.ndarray:
        if count == 0:  # nothing cannot be mapped
            return np.empty(0, dtype=dtype)
        return np.memmap(self.path, dtype=dtype, mode="r", offset=offset, shape=(count,))


def open_shard(path: Path, *, fingerprint: str | None = None, verify: bool | None = None) -> Shard:
    """Open a shard, or refuse it by name.

    Args:
        fingerprint: of the tokenizer that must have written it, if that matters.
        verify: True reads the whole file and compares its checksum; False never does; None does for
            files up to 256 MB. Header and length are always checked.
    Raises:
        DataError: missing, foreign, of another version or tokenizer, torn, or with a flipped bit.
    """
    try:
        with path.open("rb") as file:
            header = _read_header(path, file.read(HEADER_BYTES))
            length = os.fstat(file.fileno()).st_size
            if length != header.file_bytes:
                raise _torn(path, f"{length} bytes long, but its header says {header.file_bytes}")
            reads_all = length <= CHEAP_TO_VERIFY if verify is None else verify
            if reads_all and _checksum(file) != header.checksum:
                raise _torn(path, "its content does not match its checksum")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).", _prepare_anew(path)) from None
    if fingerprint is not None and header.fingerprint.hex() != fingerprint:
        raise DataError(
            f"{path}: tokens of another tokenizer ({header.fingerprint.hex()[:12]}, not {fingerprint[:12]}).",
            "Use the tokenizer it was prepared with, or prepare the text again with this one.",
        )
    return Shard(path, header)


def _read_header(path: Path, raw: bytes) -> Header:
    if not raw.startswith(MAGIC):
        raise DataError(f"{path}: not a token shard of Handloom.", _prepare_anew(path))
    if len(raw) < HEADER_BYTES:
        raise _torn(path, "its header is cut short")
    body, (crc,) = raw[: -_CRC.size], _CRC.unpack(raw[-_CRC.size :])
    if zlib.crc32(body) != crc:
        raise _torn(path, "its header does not match its own checksum")
    _, version, token_bytes, *rest = _HEADER.unpack_from(raw)
    if version != VERSION or token_bytes not in (2, 4):
        raise DataError(
            f"{path}: a token shard of format version {version}; this Handloom reads {VERSION}.", _prepare_anew(path)
        )
    return Header(token_bytes, *rest)


def _checksum(file: Any) -> bytes:
    """SHA-256 from where the file stands to its end."""
    total = hashlib.sha256()
    while block := file.read(1 << 20):
        total.update(block)
    return total.digest()


def _torn(path: Path, how: str) -> DataError:
    return DataError(f"{path}: a torn token shard: {how}.", _prepare_anew(path))


def _prepare_anew(path: Path) -> str:
    return f"Delete the folder {path.parent} and run again; it is prepared anew."


class ShardWriter:
    """Write a shard as tokens come; a context manager that leaves a whole file or none.

    Args:
        vocab_size: decides the type of the tokens on disk.
        fingerprint: of the tokenizer, 64 hexadecimal digits.
    """

    def __init__(self, path: Path, *, vocab_size: int, fingerprint: str) -> None:
        self.path = path
        self.dtype = token_dtype(vocab_size)
        self._fingerprint = bytes.fromhex(fingerprint)
        self._partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        self._ends = array("Q")
        self._names = bytearray()
        self._sha256 = hashlib.sha256()
        self.n_tokens = 0
        self.n_bytes = 0

    def __enter__(self) -> ShardWriter:
        self._file = self._partial.open("wb")
        self._file.write(bytes(HEADER_BYTES))
        return self

    def add(self, tokens: bytes, n_bytes: int) -> None:
        """Append tokens (already in `dtype`) that stand for `n_bytes` bytes of text."""
        self._write(tokens)
        self.n_tokens += len(tokens) // self.dtype.itemsize
        self.n_bytes += n_bytes

    def end_document(self, name: str, end: int) -> None:
        """Note that the document called `name` ends before offset `end`."""
        self._ends.append(end)
        self._names += name.replace("\n", " ").encode("utf-8", "replace") + b"\n"

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            try:
                self._file.close()  # tries once more to write what a full disk refused
            finally:
                self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._write(np.asarray(self._ends, dtype="<u8").tobytes())
        self._write(bytes(self._names))
        header = Header(
            token_bytes=self.dtype.itemsize,
            n_tokens=self.n_tokens,
            n_bytes=self.n_bytes,
            n_documents=len(self._ends),
            names_bytes=len(self._names),
            fingerprint=self._fingerprint,
            checksum=self._sha256.digest(),
        )
        self._file.seek(0)
        self._file.write(header.pack())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self.path)

    def _write(self, block: bytes) -> None:
        self._file.write(block)
        self._sha256.update(block)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn what the system says against writing below `folder` into a DataError with a remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            f"Prepared data cannot be written to {folder} ({reason}); nothing half-written is left there.",
            f"{'Free some space' if full else 'Make it writable'}, or name another folder in HANDLOOM_CACHE.",
        ) from None
