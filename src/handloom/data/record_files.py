"""Files of records, whatever their form: JSON Lines, JSON, CSV, TSV, Parquet; packed or not.

Records stream, so a file may be larger than memory. `schema` decides what a record means. Imports pyarrow only where
it is used.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from handloom.data import text_io
from handloom.data.compressed import PACKED
from handloom.data.json_values import MalformedError, json_values
from handloom.data.schema import Record
from handloom.data.text_io import Origin, ReadOptions, UnreadableError, form_of
from handloom.errors import DataError
from handloom.packages import import_failure
from handloom.values import parse_json

T = TypeVar("T")
Rows = Iterator[tuple[Origin, Any]]
_LONGEST_LINE = 1 << 24  # bytes of a first line of .json, to see whether it is an object of its own
_LONGEST_FIELD = 1 << 26  # characters; where a quote is left open, the rest of the file would be one field
_ROWS_AT_A_TIME = 64


def read_records(path: Path, options: ReadOptions) -> Iterator[Record]:
    """Stream the records of a file, whose form follows from its name.

    Without an `on_error`, raises DataError, naming file and line, for what cannot be read or is not an object.
    """
    text_io.require_records(path)
    name = path.as_posix()
    try:
        for origin, value in _READERS[form_of(path)](path, name, options):
            record = options.attempt(partial(Record.of, value, origin, options), origin)
            if record is not None:
                yield record
    except UnreadableError as error:
        options.report(error, Origin(name))


def read_as(make: Callable[[Record], T], path: Path, options: ReadOptions) -> Iterator[T]:
    """What `make` makes of each record of a file; its errors are handled as those of `read_records`."""
    for record in read_records(path, options):
        made = options.attempt(partial(make, record), record.origin)
        if made is not None:
            yield made


def parse_line(line: bytes, origin: Origin, options: ReadOptions) -> Any:
    """The JSON value of one line; DataError, naming `origin`, for what is not UTF-8 or not JSON."""
    try:
        return parse_json(options.decode(line, origin))
    except ValueError as error:
        raise DataError(
            f"{origin}: not JSON ({error}).",
            "JSON Lines holds one JSON object a line; fix or remove that line. Where objects span lines or share one, "
            "give the file a name that ends in .json.",
        ) from None


def _json_lines(path: Path, name: str, options: ReadOptions) -> Rows:
    for number, line in _raw_lines(path, name):
        if line.strip():
            origin = Origin(name, number)
            try:
                value = parse_line(line, origin, options)
            except DataError as error:
                options.report(error, origin)
            else:
                yield origin, value


def _raw_lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    with text_io.opened(path, name) as file:
        for number, line in enumerate(file, start=1):
            yield number, text_io.without_mark(line, name) if number == 1 else line


def _json(path: Path, name: str, options: ReadOptions) -> Rows:
    """A list, values one after the other, or JSON Lines under the name of JSON, which is the common case."""
    if _begins_with_a_line(path, name):
        yield from _json_lines(path, name, options)
        return
    try:
        for value, line, column in json_values(text_io.stream(path, name, options)):
            yield Origin(name, line, column), value
    except MalformedError as error:
        origin = Origin(name, error.line)
        problem = f"{origin}: not JSON ({error})."
        options.report(DataError(problem, "A .json file holds a list of objects, or objects; fix that place."), origin)


def _begins_with_a_line(path: Path, name: str) -> bool:
    with text_io.opened(path, name) as file:
        line = file.readline(80).removeprefix(text_io.BOM)
        if line.lstrip().startswith(b"{") and not line.endswith(b"\n"):
            line += file.readline(_LONGEST_LINE)
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _table(path: Path, name: str, options: ReadOptions) -> Rows:
    """The rows of a .csv or .tsv file; its first row names the columns, blank lines are skipped.

    Quoted fields may hold delimiters, line breaks and doubled quotes. The delimiter of a .csv file is the comma,
    semicolon or tab, whichever its first line has most of.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    lines = _lines(path, name, options)
    first = next(lines, "")
    delimiter = "\t" if form_of(path) == "tsv" else max(",;\t", key=first.count)
    rows = csv.reader(chain((first,), lines), delimiter=delimiter, strict=True)
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
            header = row
            if len({*row}) < len(row):
                twice = next(column for column in row if row.count(column) > 1)
                raise UnreadableError(
                    f"{name}: the first row names the column {twice!r} more than once.",
                    "The first row of a table names its columns; give each a name of its own.",
                )
        elif len(row) == len(header):
            yield origin, dict(zip(header, row, strict=True))
        else:
            problem = f"{origin}: {len(row)} fields, where the header has {len(header)}."
            remedy = "Put fields that hold delimiters or line breaks in quotes, or remove that row."
            options.report(DataError(problem, remedy), origin)


def _lines(path: Path, name: str, options: ReadOptions) -> Iterator[str]:
    """With their ends; a carriage return ends a line too."""
    for number, raw in _raw_lines(path, name):
        line = options.decode(raw, Origin(name, number))
        yield from re.findall(r"[^\r]*(?:\r\n|\r|$)", line)[:-1] if "\r" in line.rstrip("\r\n") else (line,)


def _parquet(path: Path, name: str, options: ReadOptions) -> Rows:
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
    with text_io.opened(path, name) as file:
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


_READERS: dict[str, Callable[[Path, str, ReadOptions], Rows]] = {
    "jsonl": _json_lines,
    "json": _json,
    "csv": _table,
    "tsv": _table,
    "parquet": _parquet,
}
