"""One file on disk becomes text, UTF-8, packed or not. Every fault names its file and its place.

A text has `\n` at its line ends, whichever the file had, and no byte order mark. Knows single files
only: which files there are is the corpus's business, and what a file of records holds that of `record_files`.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from handloom.data.compressed import PACKED, opened
from handloom.data.faults import Origin, ReadOptions, UnreadableError, not_utf8
from handloom.data.json_values import is_json
from handloom.errors import DataError

CHUNK = 1 << 18  # bytes read at a time, so few that they stay in the processor's cache until they are done with
_SNIFF = 8192  # a zero byte this early means a binary file
BOM = codecs.BOM_UTF8
RECORDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
"""The form of a file of records by its suffix, whatever its capitals; one of `PACKED` may follow."""
RECORD_SUFFIXES = tuple(RECORDS)
IN_FOLDERS = (".jsonl", ".ndjson", ".parquet")
"""Those that are read from a folder; others are often no data but settings, say, and have to be named."""
_MAGIC = {
    b"\x1f\x8b": ".gz",
    b"BZh91AY&SY": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"PAR1\x15": ".parquet",
}


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file's name ends in one of these, whatever its capitals, packed or not."""
    return _unpacked(name).endswith(suffixes)


def form_of(path: Path, options: ReadOptions | None = None) -> str:
    """`text`, or the form of the records in a file, by its name."""
    form = RECORDS.get(Path(_unpacked(path.name)).suffix, "text")
    return "text" if options and options.json_as_text and form in ("json", "jsonl") else form


def require_records(path: Path) -> None:
    """Raise DataError for a file that is none of records by its name."""
    if form_of(path) == "text":
        raise DataError(
            f"{path.as_posix()}: not a file of records by its name.",
            f"Records are read from files that end in {', '.join(RECORD_SUFFIXES)}.",
        )


def _unpacked(name: str) -> str:
    name = name.lower()
    return name.removesuffix(Path(name).suffix) if name.endswith(PACKED) else name


def read_text(path: Path, name: str, options: ReadOptions) -> Iterator[str]:
    """Stream a UTF-8 file that is not meant to be records.

    Returns:
        its text in chunks of up to 256 KB, none empty; memory does not grow with the file.
    Raises:
        UnreadableError: the file cannot be read, is binary, or is JSON where that is not to be learned as text.
        EncodingError: it has bytes that are not UTF-8; the message has the offset of the first one.
    """
    for number, text in enumerate(stream(path, name, options)):
        if number == 0 and not options.json_as_text and form_of(path) == "text" and is_json(text, CHUNK // 4):
            raise UnreadableError(
                f"{name}: JSON under the name of a text, which would be learned with its braces and field names.",
                "Put it into a file whose name ends in .jsonl (one object a line) or .json to have its records read, "
                "or learn it as the text it is: --json-as-text.",
            )
        yield text


def stream(path: Path, name: str, options: ReadOptions) -> Iterator[str]:
    """The same, of any file of characters."""
    decoder = codecs.getincrementaldecoder("utf-8")(options.encoding_errors)
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    done = 0
    with opened(path, name) as file:
        while True:
            chunk = file.read(CHUNK)
            if done == 0:
                refuse_binary(chunk, name)
            body = chunk.removeprefix(BOM) if done == 0 else chunk
            done += len(chunk)
            try:
                text = decoder.decode(body, final=not chunk)
            except UnicodeDecodeError as error:
                # The decoder may hold bytes of the chunk before, so count back from the end.
                offset = done - len(error.object) + error.start
                options.tell(not_utf8(Origin(name), offset, error), Origin(name))
                decoder = codecs.getincrementaldecoder("utf-8")("replace")
                text = decoder.decode(error.object, final=not chunk)
            if text := newlines.decode(text, final=not chunk):
                yield text
            if not chunk:
                return


def read_raw(path: Path, name: str) -> Iterator[bytes]:
    """Stream a file's bytes, unpacked, a line at a time; one longer than a chunk comes in several.

    Raises:
        UnreadableError: the file cannot be read.
    """
    with opened(path, name) as file:
        while line := file.readline(CHUNK):
            yield line


def refuse_binary(head: bytes, name: str) -> None:
    """Raise UnreadableError unless a file that begins like this may be UTF-8."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableError(
            f"{name}: text in UTF-16, not UTF-8.", "Convert it first: iconv -f UTF-16 -t UTF-8 FILE > NEW."
        )
    for magic, suffix in _MAGIC.items():
        if head.startswith(magic):
            raise UnreadableError(
                f"{name}: a {suffix} file by its content, but not by its name.",
                f"Give it a name that ends in {suffix}, for example .jsonl{suffix}."
                if suffix in PACKED
                else f"Give it a name that ends in {suffix}.",
            )
    if b"\0" in head[:_SNIFF]:
        raise UnreadableError(
            f"{name}: a binary file (zero byte at offset {head.index(0)}), not text.",
            f"Give text in UTF-8, or records ({', '.join(RECORD_SUFFIXES)}).",
        )
