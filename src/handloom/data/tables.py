"""Rows of CSV, TSV and Parquet become records by the names of their columns. Imports pyarrow only where it is used."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handloom.data.compressed import PACKED, opened
from handloom.data.faults import Origin, ReadOptions, UnreadableError
from handloom.data.text_io import BOM, form_of, refuse_binary
from handloom.errors import DataError
from handloom.packages import import_failure

_LONGEST_FIELD = 1 << 26  # characters; where a quote is left open, the rest of the file would be one field
_ROWS_AT_A_TIME = 64


def table_rows(path: Path, name: str, options: ReadOptions) -> Iterator[tuple[Origin, dict[str, str]]]:
    """Stream the rows of a .csv or .tsv file; its first row names the columns, blank lines are skipped.

    Quoted fields may hold delimiters, line breaks and doubled quotes. A .csv file may be parted by commas, semicolons
    or tabs, whichever its first line has most of.

    Raises:
        UnreadableError: no header, or a column without a name of its own; a quote that does not fit.
        DataError: naming the line, for a row of another length than the header.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    with opened(path, name) as file:
        lines = _lines(file, name, options)
        first = next(lines, "")
        delimiter = "\t" if form_of(path) == "tsv" else max(",;\t", key=first.count)
        rows = csv.reader(_again(first, lines), delimiter=delimiter, strict=True)
        line, header = 1, None
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise UnreadableError(
                    f"{Origin(name, line)}: not a row of CSV ({error}).",
                    "Put fields that hold quotes, delimiters or line breaks in quotes, and double each quote inside.",
                ) from None
            if row is None:
                return
            origin, line = Origin(name, line), rows.line_num + 1
            if not row:
                continue
            if header is None:
                header = _checked_header(row, name)
            elif len(row) == len(header):
                yield origin, dict(zip(header, row, strict=True))
            else:
                problem = f"{origin}: {len(row)} fields, where the header has {len(header)}."
                remedy = "Put fields that hold delimiters or line breaks in quotes, or remove that row."
                options.tell(DataError(problem, remedy), origin)


def _lines(file: Any, name: str, options: ReadOptions) -> Iterator[str]:
    """With their ends; a carriage return ends a line too."""
    for number, raw in enumerate(file, start=1):
        if number == 1:
            refuse_binary(raw, name)
            raw = raw.removeprefix(BOM)
        line = options.decode(raw, Origin(name, number))
        yield from re.findall(r"[^\r]*(?:\r\n|\r|$)", line)[:-1] if "\r" in line.rstrip("\r\n") else (line,)


def _again(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _checked_header(row: list[str], name: str) -> list[str]:
    for column in row:
        if row.count(column) > 1:
            raise UnreadableError(
                f"{name}: the first row names the column {column!r} more than once.",
                "The first row of a table names its columns; give each a name of its own.",
            )
    return row


def parquet_rows(path: Path, name: str, options: ReadOptions) -> Iterator[tuple[Origin, dict[str, Any]]]:
    """Stream the rows of a .parquet file, some at a time.

    Raises:
        UnreadableError: the file cannot be read, is packed once more, or pyarrow is not installed.
    """
    if path.suffix.lower() in PACKED:
        raise UnreadableError(
            f"{name}: Parquet cannot be read through {path.suffix}, since it has to be read from its end.",
            "Unpack the file first; Parquet is compressed inside.",
        )
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise import_failure(error, f"{name}: reading Parquet", UnreadableError) or error from None

    number = 0
    with opened(path, name) as file:
        try:
            table = parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
            for batch in table.iter_batches(batch_size=_ROWS_AT_A_TIME):
                for row in batch.to_pylist():
                    number += 1
                    yield Origin(name, number, unit="row"), row
        except (pyarrow.ArrowException, OSError) as error:
            raise UnreadableError(
                f"{name}: not a whole Parquet file ({str(error).splitlines()[0]}).", "Fetch or write it again."
            ) from None
