"""Files of records become records, whatever their form: JSON Lines, JSON, CSV, TSV, Parquet; packed or not.

Records stream, so a file may be larger than memory. What a record means is `records`' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from handloom.data.compressed import opened
from handloom.data.faults import Origin, ReadOptions, UnreadableError
from handloom.data.json_values import MalformedError, json_values
from handloom.data.schema import Record
from handloom.data.tables import parquet_rows, table_rows
from handloom.data.text_io import BOM, form_of, refuse_binary, require_records, stream
from handloom.errors import DataError
from handloom.values import parse_json

T = TypeVar("T")
_LONGEST_LINE = 1 << 24  # bytes of a first line of .json, to see whether it is an object of its own


def read_records(path: Path, options: ReadOptions) -> Iterator[Record]:
    """Stream the records of a file whose name says its form.

    Raises:
        DataError: naming file and line, for what cannot be read or is no object; the first one, unless the options
            say to read on.
    """
    require_records(path)
    name = path.as_posix()
    try:
        for origin, value in _READERS[form_of(path)](path, name, options):
            record = options.attempt(partial(Record.of, value, origin, options), origin)
            if record is not None:
                yield record
    except UnreadableError as error:
        options.tell(error, Origin(name))


def read_as(make: Callable[[Record], T], path: Path, options: ReadOptions) -> Iterator[T]:
    """What `make` makes of each record of a file.

    Raises:
        DataError: as `read_records`, and what `make` raises.
    """
    for record in read_records(path, options):
        made = options.attempt(partial(make, record), record.origin)
        if made is not None:
            yield made


def parse_line(line: bytes, origin: Origin, options: ReadOptions) -> Any:
    """The JSON value of one line.

    Raises:
        DataError: naming `origin`, for bytes that are not UTF-8 or text that is not JSON.
    """
    try:
        return parse_json(options.decode(line, origin))
    except ValueError as error:
        raise DataError(
            f"{origin}: not JSON ({error}).",
            "JSON Lines holds one JSON object a line; mend or remove that line. Where objects span lines or share one, "
            "give the file a name that ends in .json.",
        ) from None


def _jsonl(path: Path, name: str, options: ReadOptions) -> Iterator[tuple[Origin, Any]]:
    with opened(path, name) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                refuse_binary(line, name)
                line = line.removeprefix(BOM)
            if line.strip():
                origin = Origin(name, number)
                try:
                    value = parse_line(line, origin, options)
                except DataError as error:
                    options.tell(error, origin)
                else:
                    yield origin, value


def _json(path: Path, name: str, options: ReadOptions) -> Iterator[tuple[Origin, Any]]:
    """A list, values one after the other, or JSON Lines under the name of JSON, which is the common case."""
    if _begins_with_a_line(path, name):
        yield from _jsonl(path, name, options)
        return
    try:
        for value, line, column in json_values(stream(path, name, options)):
            yield Origin(name, line, column), value
    except MalformedError as error:
        origin = Origin(name, error.line)
        problem = f"{origin}: not JSON ({error})."
        options.tell(DataError(problem, "A .json file holds a list of objects, or objects; mend that place."), origin)


def _begins_with_a_line(path: Path, name: str) -> bool:
    with opened(path, name) as file:
        line = file.readline(80).removeprefix(BOM)
        if line.lstrip().startswith(b"{") and not line.endswith(b"\n"):
            line += file.readline(_LONGEST_LINE)
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


_READERS: dict[str, Callable[[Path, str, ReadOptions], Iterator[tuple[Origin, Any]]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": table_rows,
    "tsv": table_rows,
    "parquet": parquet_rows,
}
