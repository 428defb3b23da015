"""Opens a file and unpacks it by its suffix: .gz, .bz2, .xz, .zst. Bytes only."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

_STEP = 1 << 10  # bytes of zstd, which may stand for thousands of times as many


class TruncatedError(Exception):
    """A zstd file that is cut short or damaged."""


DAMAGE = (EOFError, zlib.error, lzma.LZMAError, TruncatedError)
"""What reading a damaged file raises, besides OSError without a number."""


class _ZstdFile(io.RawIOBase):
    """The content of one or several zstd frames. zstandard's own stream accepts a last frame that is cut short."""

    def __init__(self, path: Path) -> None:
        if sys.version_info >= (3, 14):
            zstd = import_module("compression.zstd")
            self._new, self._error = zstd.ZstdDecompressor, zstd.ZstdError
        else:
            import zstandard

            self._new, self._error = zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
        self._file = path.open("rb")
        self._frame: Any = None
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self._ready and (packed := self._packed or self._file.read(_STEP)):
            self._frame = self._frame or self._new()
            try:
                self._ready = memoryview(self._frame.decompress(packed))
            except self._error as error:
                raise TruncatedError(str(error)) from None
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        if not self._ready and self._frame is not None:
            raise TruncatedError("it ends before its last frame does")
        count = min(len(into), len(self._ready))
        into[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


PACKED: dict[str, tuple[str, Any]] = {
    ".gz": ("gzip", gzip.GzipFile),
    ".bz2": ("bzip2", bz2.BZ2File),
    ".xz": ("xz", lzma.LZMAFile),
    ".zst": ("zstd", lambda path: io.BufferedReader(_ZstdFile(path))),
}
"""By suffix: the program that packs such files, and what opens one."""
