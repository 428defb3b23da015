"""One file on disk becomes text: UTF-8, JSON Lines, gzip. Every fault names its file and its place.

A text has `\n` at its line ends, whichever the file had, and no byte order mark. Knows single files
only: which files there are is the corpus's business.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from handloom import values
from handloom.errors import ConfigError, DataError

CHUNK = 1 << 20  # bytes read at a time; a file of any size passes through in chunks of this
_SNIFF = 8192  # a zero byte this early means a binary file
_BOM = codecs.BOM_UTF8


def check_encoding_errors(policy: str) -> None:
    """Raises ConfigError unless `policy` is one that reading knows."""
    if policy not in ("strict", "replace"):
        raise ConfigError(
            f'encoding_errors is "{policy}", but must be "strict" or "replace".',
            "Strict reports bytes that are not UTF-8, replace reads them as \N{REPLACEMENT CHARACTER}.",
        )


def read_text(path: Path, name: str, encoding_errors: str = "strict") -> Iterator[str]:
    """Stream a UTF-8 file.

    Returns:
        its text in chunks of about 1 MB, none empty; memory does not grow with the file.
    Raises:
        DataError: the file cannot be read, is binary, or has bytes that are not UTF-8 (naming the
            offset of the first one) while `encoding_errors` is "strict".
    """
    decoder = codecs.getincrementaldecoder("utf-8")(encoding_errors)
    lines = io.IncrementalNewlineDecoder(decoder, translate=True)
    done = 0
    with _opened(path, name) as file:
        while True:
            chunk = file.read(CHUNK)
            if done == 0:
                _refuse_binary(chunk, name)
            body = chunk.removeprefix(_BOM) if done == 0 else chunk
            done += len(chunk)
            try:
                text = lines.decode(body, final=not chunk)
            except UnicodeDecodeError as error:
                # The decoder may hold bytes of the chunk before, so count back from the end.
                raise _not_utf8(name, done - len(error.object) + error.start, error) from None
            if text:
                yield text
            if not chunk:
                return


def read_jsonl(
    path: Path, name: str, text_field: str = "text", encoding_errors: str = "strict"
) -> Iterator[tuple[int, str]]:
    """Stream a JSON Lines file, plain or gzip (told by the suffix `.gz`).

    Returns:
        pairs of line number (from 1) and the text of that line's `text_field`; blank lines are skipped.
    Raises:
        DataError: naming file and line, for a line that is not a JSON object with that field as a string.
    """
    for number, line in read_lines(path, name):
        yield number, text_of(line, f"{name}, line {number}", text_field, encoding_errors)


def read_lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """Stream the lines of a JSON Lines file, plain or gzip, as they are; blank ones are skipped.

    Returns:
        pairs of line number (from 1) and the line's bytes.
    Raises:
        DataError: the file cannot be read.
    """
    with _opened(path, name) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.strip():
                yield number, line


def read_raw(path: Path, name: str) -> Iterator[bytes]:
    """Stream a file's bytes as they are, a line at a time; one longer than a chunk comes in several.

    Raises:
        DataError: the file cannot be read.
    """
    with _opened(path, name) as file:
        while line := file.readline(CHUNK):
            yield line


def parse_json(line: bytes, where: str, encoding_errors: str = "strict") -> Any:
    """The JSON value of one line.

    Raises:
        DataError: naming `where`, for bytes that are not UTF-8 or text that is not JSON.
    """
    try:
        return values.parse_json(line.decode("utf-8", encoding_errors))
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error.start, error) from None
    except ValueError as error:
        raise DataError(
            f"{where}: not JSON ({error}).",
            "JSON Lines holds one JSON object a line; mend or remove that line.",
        ) from None


def text_of(line: bytes, where: str, field: str, encoding_errors: str = "strict") -> str:
    """The text in one line of JSON Lines, its line ends `\\n`.

    Raises:
        DataError: naming `where`, unless the line is a JSON object with that field as a string.
    """
    record = parse_json(line, where, encoding_errors)
    text = _field(record, where, field).replace("\r\n", "\n").replace("\r", "\n")
    return without_lone_surrogates(text, where, encoding_errors)


def _field(record: Any, where: str, field: str) -> str:
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: a JSON {type(record).__name__}, not an object.",
            f'Each line must be an object such as {{"{field}": "..."}}.',
        )
    if field not in record:
        there = ", ".join(sorted(map(str, record))) or "none"
        raise DataError(
            f'{where}: no field "{field}" (fields there: {there}).',
            "Name the field that holds the text with --text-field.",
        )
    if not isinstance(record[field], str):
        raise DataError(
            f'{where}: field "{field}" is a {type(record[field]).__name__}, not a string.',
            "Name the field that holds the text with --text-field, or mend that line.",
        )
    return record[field]


def without_lone_surrogates(text: str, where: str, encoding_errors: str = "strict") -> str:
    """`text` itself if it can be written as UTF-8; half a surrogate pair is refused or becomes U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        if encoding_errors == "replace":
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        raise DataError(
            f"{where}: character {error.start} of the text is a lone surrogate "
            f"(U+{ord(text[error.start]):04X}), which no UTF-8 text can hold.",
            "Mend that line, or read it as \N{REPLACEMENT CHARACTER} with --encoding-errors replace.",
        ) from None
    return text


def _not_utf8(where: str, offset: int, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{where}: byte {offset} (0x{error.object[error.start]:02x}) is not UTF-8.",
        "Convert the file to UTF-8 (iconv -f FROM -t UTF-8), or read such bytes as "
        "\N{REPLACEMENT CHARACTER} with --encoding-errors replace.",
    )


def _refuse_binary(head: bytes, name: str) -> None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(
            f"{name}: text in UTF-16, not UTF-8.", "Convert it first: iconv -f UTF-16 -t UTF-8 FILE > NEW."
        )
    if b"\0" in head[:_SNIFF]:
        raise DataError(
            f"{name}: a binary file (zero byte at offset {head.index(0)}), not text.",
            "Give text in UTF-8, or a .jsonl or .jsonl.gz file.",
        )


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """The file's bytes; whatever the system says against reading them becomes a DataError."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]  # GzipFile reads bytes as BinaryIO does
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{name}: not a whole gzip file ({error}).",
            "Fetch or compress it again; gzip -t FILE checks one.",
        ) from None
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read ({error.strerror or error}).",
            "Check the path and your permission to read it.",
        ) from None
