"""Texts from files and pipes: bytes become text, or an error that names the place."""

from __future__ import annotations

import sys
from pathlib import Path

from handloom.errors import RequestError


def read_lines(file: Path) -> list[str]:
    """One prompt a line.

    Raises:
        RequestError: as `read_file`, or for an empty line.
    """
    lines = read_file(file).split("\n")
    if "" in lines:
        raise RequestError(
            f"Line {lines.index('') + 1} of {file} is empty, so there is nothing to continue.",
            "Write one prompt a line.",
        )
    return lines


def read_standard_input(what: str) -> str:
    """All that comes through standard input, without its last line end.

    Raises:
        RequestError: when it is not UTF-8.
    """
    if sys.stdin.isatty():
        print(f"Reading {what} until Ctrl-D.", file=sys.stderr)
    return decoded(sys.stdin.buffer.read(), "Standard input")


def read_file(file: Path, what: str = "The prompt file") -> str:
    """The text of a file, without its last line end.

    Raises:
        RequestError: when it cannot be read, or is not UTF-8.
    """
    try:
        return decoded(file.read_bytes(), f"{what} {file}")
    except OSError as error:
        raise RequestError(
            f"{what} {file} cannot be read: {error.strerror}.", "Give a UTF-8 text file."
        ) from None


def decoded(raw: bytes, where: str) -> str:
    """The text of a prompt that came as bytes. The line end that editors and `echo` put last is not meant."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{where} is not UTF-8 text: the byte at offset {error.start} is wrong.",
            "Convert it first, for example with iconv.",
        ) from None
    return text.replace("\r\n", "\n").removesuffix("\n")
