"""A token shard: one file of token ids, memory-mapped, whose header identifies it and proves it complete.

    256 bytes   header: magic, version, bytes per token, counts, fingerprint of the tokenizer,
                SHA-256 of everything behind the header, and a CRC-32 of the header itself
    tokens      uint16 if every id fits, else uint32; little-endian
    ends        uint64 for each document: the offset behind its last token
    names       of the documents, UTF-8, one a line

A shard is written under a temporary name, synced, and renamed, so the final name never holds half of one. Knows no text
and no tokenizer, only the fingerprint it is given.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
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
    """The header of a shard."""

    token_bytes: int
    n_tokens: int
    n_bytes: int
    n_documents: int
    names_bytes: int
    fingerprint: bytes
    checksum: bytes

    def pack(self) -> bytes:
        body = _HEADER.pack(MAGIC, VERSION, *astuple(self))
        body = body.ljust(HEADER_BYTES - _CRC.size, b"\0")
        return body + _CRC.pack(zlib.crc32(body))

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + self.n_tokens * self.token_bytes + self.n_documents * 8 + self.names_bytes


class Shard:
    """An open shard; nothing is read before it is used.

    `tokens` is (n_tokens,) uint16 or uint32, memory-mapped, read-only; `n_bytes` counts the UTF-8 bytes of the text
    that the tokens stand for, without end-of-text.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self._header = path, header
        self.n_tokens, self.n_bytes, self.n_documents = header.n_tokens, header.n_bytes, header.n_documents
        self.fingerprint = header.fingerprint.hex()
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
    """Open a shard, written with the tokenizer of that `fingerprint` if one is given.

    Header and length are always checked; `verify` True reads the whole file and compares its checksum, False does not,
    None does for files up to 256 MB. Raises DataError for one that is missing, foreign, of another version or
    tokenizer, cut short, or has a flipped bit.
    """

    def refuse(problem: str) -> DataError:
        return DataError(
            f"{path}: {problem}.", f"Delete the folder {path.parent} and run again to prepare the text again."
        )

    try:
        with path.open("rb") as file:
            raw = file.read(HEADER_BYTES)
            if not raw.startswith(MAGIC):
                raise refuse("not a token shard of Handloom")
            if len(raw) < HEADER_BYTES:
                raise refuse("a damaged token shard: its header is cut short")
            if zlib.crc32(raw[: -_CRC.size]) != _CRC.unpack(raw[-_CRC.size :])[0]:
                raise refuse("a damaged token shard: its header does not match its own checksum")
            _, version, token_bytes, *rest = _HEADER.unpack_from(raw)
            if version != VERSION or token_bytes not in (2, 4):
                raise refuse(f"a token shard of format version {version}; this Handloom reads {VERSION}")
            header, length = Header(token_bytes, *rest), os.fstat(file.fileno()).st_size
            if length != header.file_bytes:
                raise refuse(f"a damaged token shard: {length} bytes long, where its header has {header.file_bytes}")
            digest, reads_all = hashlib.sha256(), length <= CHEAP_TO_VERIFY if verify is None else verify
            while reads_all and (block := file.read(1 << 20)):
                digest.update(block)
            if reads_all and digest.digest() != header.checksum:
                raise refuse("a damaged token shard: its content does not match its checksum")
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror or error})") from None
    if fingerprint is not None and header.fingerprint.hex() != fingerprint:
        raise DataError(
            f"{path}: tokens of another tokenizer ({header.fingerprint.hex()[:12]}, not {fingerprint[:12]}).",
            "Use the tokenizer it was prepared with, or prepare the text again with this one.",
        )
    return Shard(path, header)


class ShardWriter:
    """Writes a shard as tokens come; a context manager that leaves a whole file or none.

    `vocab_size` decides the type of the tokens on disk; `fingerprint` is that of the tokenizer, 64 hexadecimal digits.
    """

    def __init__(self, path: Path, *, vocab_size: int, fingerprint: str) -> None:
        self.path, self.dtype = path, token_dtype(vocab_size)
        self._fingerprint = bytes.fromhex(fingerprint)
        self._partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        self._ends, self._names, self._sha256 = array("Q"), bytearray(), hashlib.sha256()
        self.n_tokens = self.n_bytes = 0

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
        with ExitStack() as stack:
            stack.callback(self._partial.unlink, missing_ok=True)
            stack.callback(self._file.close)  # tries once more to write what a full disk refused
            if kind is None:
                self._finish()

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
    """Turn an OSError of the block, about writing below `folder`, into a DataError with a remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            f"Prepared data cannot be written to {folder} ({reason}); nothing half-written is left there.",
            f"{'Free some space' if full else 'Make it writable'}, or name another folder in HANDLOOM_CACHE.",
        ) from None
