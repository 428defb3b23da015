"""Texts from files and pipes: bytes become text, or an error that names the place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

from handloom.errors import RequestError


def read_lines(file: Path) -> list[str]:
    """One prompt a line; raises RequestError as `read_file`, or for an empty line."""
    lines = read_file(file).split("\n")
    if "" in lines:
        raise RequestError(
            f"Line {lines.index('') + 1} of {file} is empty, so there is nothing to continue.",
            "Write one prompt a line.",
        )
    return lines


def standard_input(what: str) -> BinaryIO:
    """Standard input as bytes; raises RequestError when this process was started without one, as services are."""
    stream: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.closed:
        raise RequestError(
            f"There is no standard input to read {what} from: it is closed.",
            "Pipe something into the command, or name a text or a file instead.",
        )
    return stream


def read_standard_input(what: str, *, exact: bool = False) -> str:
    """The text of standard input, as `decoded`; raises RequestError when it is closed, broken or not UTF-8."""
    stream = standard_input(what)
    if stream.isatty():
        print(f"Reading {what} until Ctrl-D.", file=sys.stderr)
    try:
        return decoded(stream.read(), "Standard input", exact=exact)
    except OSError as error:
        problem = f"Standard input cannot be read: {error.strerror or error}."
        raise RequestError(problem, "Pipe a text into the command.") from None


def read_file(file: Path, what: str = "The prompt file", *, exact: bool = False) -> str:
    """The text of a file, as `decoded`; raises RequestError when it cannot be read, or is not UTF-8."""
    try:
        return decoded(file.read_bytes(), f"{what} {file}", exact=exact)
    except OSError as error:
        raise RequestError(f"{what} {file} cannot be read: {error.strerror}.", "Give a UTF-8 text file.") from None


def decoded(raw: bytes, where: str, *, exact: bool = False) -> str:
    """Bytes as text, without a byte order mark and the last line end, which editors and `echo` add, unless `exact`."""
    try:
        text = raw.decode("utf-8" if exact else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{where} is not UTF-8 text: the byte at offset {error.start} is wrong.",
            "Convert it first, for example with iconv.",
        ) from None
    return text if exact else text.replace("\r\n", "\n").removesuffix("\n")
