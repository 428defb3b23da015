"""A file's bytes, unpacked as its suffix says: .gz, .bz2, .xz, .zst. Knows nothing of what the bytes mean."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from handloom.data.faults import UnreadableError
from handloom.packages import import_failure

PACKED = (".gz", ".bz2", ".xz", ".zst")
_AT_A_TIME = 1 << 10  # bytes of zstd, which may stand for thousands of times as many


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked while they are read.

    Raises:
        UnreadableError: for whatever the system says against reading them, and for a damaged or cut file.
    """
    packed = path.suffix.lower()
    try:
        with _OPENERS[packed](path) if packed in _OPENERS else path.open("rb") as file:
            yield file
    except OSError as error:
        if packed in _OPENERS and error.errno is None:  # gzip and bz2 say so of what is not theirs
            raise _damaged(name, packed, error) from None
        raise UnreadableError(
            f"{name}: cannot be read ({error.strerror or error}).", "Check the path and your permission to read it."
        ) from None
    except (EOFError, zlib.error, lzma.LZMAError, _DamagedError) as error:
        raise _damaged(name, packed, error) from None


def _damaged(name: str, packed: str, error: Exception) -> UnreadableError:
    tool = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}[packed]
    return UnreadableError(
        f"{name}: not a whole {tool} file ({error}).", f"Fetch or compress it again; {tool} -t FILE checks one."
    )


class _DamagedError(Exception):
    """A zstd file that is cut short or is none."""


def _open_zst(path: Path) -> Any:
    if sys.version_info >= (3, 14):
        zstd = import_module("compression.zstd")
        return io.BufferedReader(_Frames(path, zstd.ZstdDecompressor, zstd.ZstdError))
    try:
        import zstandard
    except ImportError as error:
        raise import_failure(error, f"{path.as_posix()}: reading .zst", UnreadableError) or error from None

    decompressor = zstandard.ZstdDecompressor()
    return io.BufferedReader(_Frames(path, decompressor.decompressobj, zstandard.ZstdError))


class _Frames(io.RawIOBase):
    """What one or several zstd frames hold. Unlike zstandard's own stream it knows when the last one is cut."""

    def __init__(self, path: Path, decompressor: Any, error: type[Exception]) -> None:
        self._file, self._new, self._error = path.open("rb"), decompressor, error
        self._frame: Any = None
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self._ready:
            if not self._packed:
                self._packed = self._file.read(_AT_A_TIME)
            if not self._packed:
                if self._frame is not None:
                    raise _DamagedError("it ends before its last frame does")
                return 0
            self._frame = self._frame or self._new()
            try:
                self._ready = memoryview(self._frame.decompress(self._packed))
            except self._error as error:
                raise _DamagedError(str(error)) from None
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        count = min(len(into), len(self._ready))
        into[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


_OPENERS: dict[str, Any] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile, ".zst": _open_zst}
