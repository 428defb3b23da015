r"""The one reader of files: bytes, unpacked, become UTF-8 text; every error names its file and place.

Text has `\n` at its line ends and no byte order mark. `ReadOptions.on_error` makes every reader tolerant: a run lets
errors raise, the linter collects them and reads on. Reads single files: `sources` finds them, `record_files` takes
records out of them.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from handloom.data.chunking import check_separator
from handloom.data.compressed import DAMAGE, PACKED
from handloom.data.json_values import is_json
from handloom.errors import ConfigError, DataError
from handloom.packages import import_failure
from handloom.tokenizer.base import END_OF_TEXT

T = TypeVar("T")
CHUNK = 1 << 18  # bytes read at a time; they stay in the processor's cache until they are done with
BOM = codecs.BOM_UTF8
TEXT_FIELD = "text"
RECORDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
"""The form of a file of records by its suffix, whatever its capitals; one of `PACKED` may follow."""
RECORD_SUFFIXES = tuple(RECORDS)
IN_FOLDERS = (".jsonl", ".ndjson", ".parquet")
"""Those that are read from a folder; others are often settings rather than data, and have to be named."""
_SNIFF = 8192  # a zero byte this early means a binary file
_MAGIC = {
    b"\x1f\x8b": ".gz",
    b"BZh91AY&SY": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"PAR1\x15": ".parquet",
}


class FaultError(DataError):
    """A fault of a file or record; `rule` is the one of the linter that it breaks."""

    def __init__(self, problem: str, remedy: str, rule: str) -> None:
        super().__init__(problem, remedy)
        self.rule = rule


class UnreadableError(FaultError):
    """A file that cannot be read, or not to its end."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy, "unreadable")


@dataclass(frozen=True)
class Origin:
    """A place in a file, such as where a record begins; numbers count from 1, and 0 stands for the whole file."""

    file: str
    line: int = 0
    column: int = 0  # where it is not the first record of its line
    unit: str = "line"  # `row` in a file without lines

    def __str__(self) -> str:
        line = f", {self.unit} {self.line}" if self.line else ""
        return f"{self.file}{line}{f', column {self.column}' if self.column else ''}"

    @property
    def short(self) -> str:
        """File, line and column with colons between them, as far as they are known."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    `on_error` is called with each error and its place; when it returns, reading goes on: wrong bytes become U+FFFD,
    what cannot be read is left out. Raises ConfigError for an unknown `encoding_errors`, or a separator that is not one
    line.
    """

    text_field: str = TEXT_FIELD  # of a record, which holds its text
    encoding_errors: str = "strict"  # or "replace", for bytes that are not UTF-8 and for lone surrogates
    json_as_text: bool = False
    document_separator: str = END_OF_TEXT  # the line between two documents of a text file; empty for none
    on_error: Callable[[DataError, Origin], None] | None = None

    def __post_init__(self) -> None:
        check_separator(self.document_separator)
        if self.encoding_errors not in ("strict", "replace"):
            problem = f'encoding_errors is "{self.encoding_errors}", but must be "strict" or "replace".'
            remedy = "Strict reports bytes that are not UTF-8, replace reads them as \N{REPLACEMENT CHARACTER}."
            raise ConfigError(problem, remedy, setting="encoding_errors")

    def report(self, error: DataError, origin: Origin) -> None:
        """Raise the error, or hand it to `on_error`."""
        if self.on_error is None:
            raise error from None
        self.on_error(error, origin)

    def attempt(self, read: Callable[[], T], origin: Origin) -> T | None:
        """What `read` returns; None when its error was handed to `on_error`."""
        try:
            return read()
        except DataError as error:
            self.report(error, origin)
            return None

    def decode(self, raw: bytes, origin: Origin) -> str:
        """Bytes as text."""
        try:
            return raw.decode("utf-8", self.encoding_errors)
        except UnicodeDecodeError as error:
            self.report(_not_utf8(origin, error.start, error), origin)
            return raw.decode("utf-8", "replace")

    def plain(self, text: str, origin: Origin) -> str:
        r"""A string of a record with `\n` as line ends; a lone surrogate is refused or becomes U+FFFD."""
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            if self.encoding_errors == "strict":
                problem = (
                    f"{origin}: character {error.start} of the text is a lone surrogate "
                    f"(U+{ord(text[error.start]):04X}), which no UTF-8 text can hold."
                )
                remedy = "Fix that line, or read it as \N{REPLACEMENT CHARACTER} with `encoding_errors=replace`."
                self.report(FaultError(problem, remedy, "encoding"), origin)
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text


def _not_utf8(origin: Origin, offset: int, error: UnicodeDecodeError) -> FaultError:
    return FaultError(
        f"{origin}: byte {offset} (0x{error.object[error.start]:02x}) is not UTF-8.",
        "Convert the file to UTF-8 (iconv -f FROM -t UTF-8), or read such bytes as "
        "\N{REPLACEMENT CHARACTER} with `encoding_errors=replace`.",
        "encoding",
    )


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file's name ends in one of these, whatever its capitals, packed or not."""
    return _unpacked(name).endswith(suffixes)


def form_of(path: Path, options: ReadOptions | None = None) -> str:
    """`text`, or the form of the records in a file, by its name."""
    form = RECORDS.get(Path(_unpacked(path.name)).suffix, "text")
    return "text" if options and options.json_as_text and form in ("json", "jsonl") else form


def require_records(path: Path) -> None:
    """Raise DataError for a file that does not hold records by its name."""
    if form_of(path) == "text":
        raise DataError(
            f"{path.as_posix()}: not a file of records by its name.",
            f"Records are read from files that end in {', '.join(RECORD_SUFFIXES)}.",
        )


def _unpacked(name: str) -> str:
    name = name.lower()
    return name.removesuffix(Path(name).suffix) if name.endswith(tuple(PACKED)) else name


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked while they are read; UnreadableError if the system refuses, or for damage."""
    tool, opener = PACKED.get(path.suffix.lower(), ("", Path.open))
    try:
        with opener(path) if tool else path.open("rb") as file:
            yield file
    except (OSError, *DAMAGE) as error:
        if isinstance(error, OSError) and not (tool and error.errno is None):  # which means damage to gzip and bz2
            raise UnreadableError(
                f"{name}: cannot be read ({error.strerror or error}).", "Check the path and your permission to read it."
            ) from None
        raise UnreadableError(
            f"{name}: not a whole {tool} file ({error}).", f"Fetch or compress it again; {tool} -t FILE checks one."
        ) from None
    except ImportError as error:
        raise import_failure(error, f"{name}: reading {path.suffix.lower()}", UnreadableError) or error from None


def read_text(path: Path, name: str, options: ReadOptions) -> Iterator[str]:
    """Stream a UTF-8 file that is not meant to be records, in chunks of up to 256 KB, none empty.

    Raises UnreadableError for what cannot be read, is binary, or is JSON where that is not to be taken as text, and
    FaultError for bytes that are not UTF-8.
    """
    for number, text in enumerate(stream(path, name, options)):
        if number == 0 and not options.json_as_text and form_of(path) == "text" and is_json(text, CHUNK // 4):
            raise UnreadableError(
                f"{name}: JSON under the name of a text, which would be learned with its braces and field names.",
                "Put it into a file whose name ends in .jsonl (one object a line) or .json to have its records read, "
                "or take it as text: `json_as_text=true`.",
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
            body = without_mark(chunk, name) if done == 0 else chunk
            done += len(chunk)
            try:
                text = decoder.decode(body, final=not chunk)
            except UnicodeDecodeError as error:
                # The decoder may hold bytes of the chunk before, so count back from the end.
                offset = done - len(error.object) + error.start
                options.report(_not_utf8(Origin(name), offset, error), Origin(name))
                decoder = codecs.getincrementaldecoder("utf-8")("replace")
                text = decoder.decode(error.object, final=not chunk)
            if text := newlines.decode(text, final=not chunk):
                yield text
            if not chunk:
                return


def read_raw(path: Path, name: str) -> Iterator[bytes]:
    """Stream a file's bytes, unpacked, a line at a time; one longer than a chunk comes in several."""
    with opened(path, name) as file:
        while line := file.readline(CHUNK):
            yield line


def without_mark(head: bytes, name: str) -> bytes:
    """The beginning of a file without its byte order mark; UnreadableError unless the file may be UTF-8."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableError(
            f"{name}: text in UTF-16, not UTF-8.", "Convert it first: iconv -f UTF-16 -t UTF-8 FILE > NEW."
        )
    if suffix := next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), ""):
        example = f", for example .jsonl{suffix}" if suffix in PACKED else ""
        raise UnreadableError(
            f"{name}: a {suffix} file by its content, but not by its name.",
            f"Give it a name that ends in {suffix}{example}.",
        )
    if b"\0" in head[:_SNIFF]:
        raise UnreadableError(
            f"{name}: a binary file (zero byte at offset {head.index(0)}), not text.",
            f"Give text in UTF-8, or records ({', '.join(RECORD_SUFFIXES)}).",
        )
    return head.removeprefix(BOM)
