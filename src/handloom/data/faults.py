"""How a file is read and what is done about its faults, shared by every reader. Knows no files.

Every reader goes through `ReadOptions.tell`: a run lets it raise, the linter collects what it is told and reads on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from handloom.data.separator import check_separator
from handloom.errors import ConfigError, DataError
from handloom.tokenizer.base import END_OF_TEXT

T = TypeVar("T")
TEXT_FIELD = "text"


class UnreadableError(DataError):
    """A file that cannot be read, or not to its end."""


class EncodingError(DataError):
    """Bytes that are not UTF-8, or a lone surrogate."""


class EmptyError(DataError):
    """Nothing stands where a text or messages should be."""


class NoLabelError(DataError):
    """A text to learn a label from has none."""


class NoAssistantError(DataError):
    """A conversation has no message of the assistant."""


@dataclass(frozen=True)
class Origin:
    """Where a record begins; numbers count from 1, and 0 stands for a file as a whole."""

    file: str
    line: int = 0
    column: int = 0
    """Where it is not the first record of its line."""
    unit: str = "line"
    """`row` in a file that has no lines."""

    def __str__(self) -> str:
        line = f", {self.unit} {self.line}" if self.line else ""
        return f"{self.file}{line}{f', column {self.column}' if self.column else ''}"


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Args:
        text_field: the field of a record that holds its text.
        encoding_errors: "strict" or "replace", for bytes that are not UTF-8 and for lone surrogates.
        json_as_text: whether JSON is taken as the text it is, instead of as records.
        document_separator: line between two documents of a text file; empty for none.
        on_error: called with each fault and its place. When it returns, reading goes on: wrong bytes become
            U+FFFD, any other faulty record or file is passed over. None: the first fault is raised.

    Raises:
        ConfigError: an unknown `encoding_errors`, or a separator of several lines or none.
    """

    text_field: str = TEXT_FIELD
    encoding_errors: str = "strict"
    json_as_text: bool = False
    document_separator: str = END_OF_TEXT
    on_error: Callable[[DataError, Origin], None] | None = None

    def __post_init__(self) -> None:
        check_separator(self.document_separator)
        if self.encoding_errors not in ("strict", "replace"):
            raise ConfigError(
                f'encoding_errors is "{self.encoding_errors}", but must be "strict" or "replace".',
                "Strict reports bytes that are not UTF-8, replace reads them as \N{REPLACEMENT CHARACTER}.",
            )

    def tell(self, error: DataError, origin: Origin) -> None:
        """Raise the error, or hand it to `on_error`."""
        if self.on_error is None:
            raise error from None
        self.on_error(error, origin)

    def attempt(self, read: Callable[[], T], origin: Origin) -> T | None:
        """What `read` returns; None when its error was told."""
        try:
            return read()
        except DataError as error:
            self.tell(error, origin)
            return None

    def decode(self, raw: bytes, origin: Origin) -> str:
        """Bytes as text."""
        try:
            return raw.decode("utf-8", self.encoding_errors)
        except UnicodeDecodeError as error:
            self.tell(not_utf8(origin, error.start, error), origin)
            return raw.decode("utf-8", "replace")

    def encodable(self, text: str, origin: Origin) -> str:
        """`text` itself if it can be written as UTF-8; half a surrogate pair is refused or becomes U+FFFD."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            if self.encoding_errors == "strict":
                problem = (
                    f"{origin}: character {error.start} of the text is a lone surrogate "
                    f"(U+{ord(text[error.start]):04X}), which no UTF-8 text can hold."
                )
                remedy = "Mend that line, or read it as \N{REPLACEMENT CHARACTER} with --encoding-errors replace."
                self.tell(EncodingError(problem, remedy), origin)
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text


def not_utf8(origin: Origin, offset: int, error: UnicodeDecodeError) -> EncodingError:
    """The error for bytes that are not UTF-8; `offset` counts from where `origin` begins."""
    return EncodingError(
        f"{origin}: byte {offset} (0x{error.object[error.start]:02x}) is not UTF-8.",
        "Convert the file to UTF-8 (iconv -f FROM -t UTF-8), or read such bytes as "
        "\N{REPLACEMENT CHARACTER} with --encoding-errors replace.",
    )
