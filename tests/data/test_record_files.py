"""Files of records in every form give the same records, at their places; what is none is refused by name and line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sys
import tracemalloc
from functools import partial

import pyarrow
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from handloom.data import text_io
from handloom.data.json_values import MalformedError, is_json, json_values
from handloom.data.record_files import read_records
from handloom.data.text_io import ReadOptions
from handloom.errors import DataError

PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": partial(lzma.compress, preset=0),
    ".zst": zstandard.compress,
    "": bytes,
}
ROWS = [{"text": f'Zeile {n}\nüber "{n}", ja', "label": "ab"[n % 2]} for n in range(5)]


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Write a file and read it: its records, each with its place."""
    monkeypatch.chdir(tmp_path)

    def read(name, content, **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        found = read_records(path.relative_to(tmp_path), ReadOptions(**options))
        return [(str(record.origin), record.fields) for record in found]

    return read


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows, **how):
    into = io.StringIO(newline="")
    writer = csv.DictWriter(into, rows[0], **how)
    writer.writeheader()
    writer.writerows(rows)
    return into.getvalue()


def packed_rows(path, rows, **how):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **how)
    return path.read_bytes()


BOM = "\ufeff"
FORMS = {
    "JSON Lines": ("a.jsonl", lines(ROWS)),
    "capitals": ("A.JSONL", lines(ROWS)),
    "another name of it": ("a.ndjson", lines(ROWS)),
    "a byte order mark": ("a.jsonl", BOM + lines(ROWS)),
    "Windows' line ends": ("a.jsonl", lines(ROWS).replace("\n", "\r\n")),
    "a list": ("a.json", json.dumps(ROWS)),
    "a list, marked and in capitals": ("A.Json", BOM + json.dumps(ROWS)),
    "a printed list": ("a.json", json.dumps(ROWS, indent=2)),
    "JSON Lines called JSON": ("a.json", BOM + lines(ROWS)),
    "printed objects": ("a.json", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
    "objects side by side": ("a.json", "".join(json.dumps(row) for row in ROWS)),
    "several lists": ("a.json", json.dumps(ROWS[:2]) + "\n[]\n" + json.dumps(ROWS[2:])),
    "CSV": ("a.csv", table(ROWS)),
    "marked CSV": ("a.CSV", BOM + table(ROWS)),
    "CSV with semicolons": ("a.csv", table(ROWS, delimiter=";")),
    "CSV with bare line ends": ("a.csv", table(ROWS, lineterminator="\n")),
    "CSV of an old Mac": ("a.csv", table(ROWS, lineterminator="\r").replace("\nüber", " über")),
    "TSV": ("a.tsv", table(ROWS, delimiter="\t")),
    "CSV, all quoted": ("a.csv", table(ROWS, quoting=csv.QUOTE_ALL)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_records(read, form):
    name, content = FORMS[form]
    expected = [{**row, "text": row["text"].replace("\n", " ")} for row in ROWS] if "old Mac" in form else ROWS
    assert [fields for _, fields in read(name, content)] == expected


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("form", ["JSON Lines", "a printed list", "CSV", "TSV"])
def test_files_may_be_packed(read, form, packing):
    name, content = FORMS[form]
    packed = PACK[packing](content.encode())
    for suffix in {packing, packing.upper()}:
        assert [fields for _, fields in read(name + suffix, packed)] == ROWS


def test_several_frames_of_zstd_are_one_file(read):
    frames = b"".join(zstandard.compress(line.encode()) for line in lines(ROWS).splitlines(keepends=True))
    assert [fields for _, fields in read("a.jsonl.zst", frames)] == ROWS


def test_parquet_gives_rows_with_lists_and_objects(read, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": "Ho"}], "n": n}
        for n in range(200)
    ]
    found = read("a.parquet", packed_rows(tmp_path / "made", rows, row_group_size=7))
    assert [fields for _, fields in found] == rows
    assert [found[0][0], found[199][0]] == ["a.parquet, row 1", "a.parquet, row 200"]


def test_places_are_those_of_the_file(read):
    def places(name, content):
        return [place.removeprefix(name) for place, _ in read(name, content)]

    assert places("a.jsonl", '{"a": 1}\n\n{"a": 2}\n') == [", line 1", ", line 3"]
    assert places("a.json", '[\n {"a": 1},\n\n {"a": 2}]') == [", line 2", ", line 4"]
    assert places("b.json", '[{"a": 1}, {"a": 2},\n{"a": 3}]') == [", line 1", ", line 1, column 12", ", line 2"]
    assert places("a.csv", 'a,b\n1,"x\ny"\n\n2,z\n') == [", line 2", ", line 5"]


REFUSED = [
    ("a.jsonl", '{"a": 1}\n{"a": ', "a.jsonl, line 2: not JSON"),
    ("a.jsonl", '{\n "a": 1\n}\n', "a.jsonl, line 1: not JSON"),
    ("a.jsonl", '{"a": 1}{"a": 2}\n', "a.jsonl, line 1: not JSON (Extra data"),
    ("a.jsonl", '[{"a": 1}]', "a.jsonl, line 1: a list, not an object."),
    ("a.json", '[{"a": 1},\n{"a": 2}', "a.json, line 2: not JSON (the list is not closed)"),
    ("a.json", '[{"a": 1}\n{"a": 2}]', "a.json, line 2: not JSON ('{' where a comma or ] should be)"),
    ("a.json", '[{"a": 1},\n]', "a.json, line 2: not JSON (a comma before ])"),
    ("a.json", '[{"a": 1}, {"a": "cut', "a.json, line 1: not JSON (Unterminated string"),
    ("a.json", '[{"a": 1},\n\n{"a" 2}]', "a.json, line 3: not JSON (Expecting ':' delimiter)"),
    ("a.json", '[{"a": 1}, 5]', "a.json, line 1, column 12: a number, not an object."),
    ("a.json", "[" * 100_000, "a.json, line 1: not JSON (nested too deep)"),
    ("a.json", '[{"a": 1},\n{"a": ' + "1" * 5000 + "}]", "a.json, line 2: not JSON (Exceeds the limit (4300 digits)"),
    ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "a.jsonl, line 1: not JSON (Exceeds the limit (4300 digits)"),
    ("a.jsonl", '{"a": "x", "a": "y"}', 'a.jsonl, line 1: not JSON (the name "a" stands twice in an object, with'),
    ("a.json", '[{"b": 1},\n{"b": {"a": 1, "a": 2}}]', 'a.json, line 2: not JSON (the name "a" stands twice in'),
    ("a.json", b'[{"a": "caf\xe9"}]', "a.json: byte 11 (0xe9) is not UTF-8."),
    ("a.csv", "a,b\n1,2\n1,2,3\n", "a.csv, line 3: 3 fields, where the header has 2."),
    ("a.csv", 'a,b\n1,"2\n', "a.csv, line 2: not a row of CSV (unexpected end of data)."),
    ("a.tsv", 'a\tb\n1\t"said" he\n', "a.tsv, line 2: not a row of CSV"),
    ("a.csv", "a,a\n1,2\n", "a.csv: the first row names the column 'a' more than once."),
    ("a.csv", b"a,b\n1,caf\xe9\n", "a.csv, line 2: byte 5 (0xe9) is not UTF-8."),
    ("a.csv", "a,b\n1,2\n".encode("utf-16"), "a.csv: text in UTF-16, not UTF-8."),
    ("a.jsonl", gzip.compress(b"{}"), "a.jsonl: a .gz file by its content, but not by its name."),
    ("a.csv", zstandard.compress(b"a,b"), "a.csv: a .zst file by its content"),
    ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-9], "a.jsonl.gz: not a whole gzip file"),
    ("a.jsonl.zst", zstandard.compress(b'{"a": 1}\n' * 99)[:-3], "a.jsonl.zst: not a whole zstd file"),
    ("a.jsonl.zst", b'{"a": 1}\n', "a.jsonl.zst: not a whole zstd file"),
    ("a.jsonl.xz", lzma.compress(b'{"a": 1}\n' * 99)[:-9], "a.jsonl.xz: not a whole xz file"),
    ("a.jsonl.bz2", b"BZ", "a.jsonl.bz2: not a whole bzip2 file"),
    ("a.parquet", b"PAR1 and no more", "a.parquet: not a whole Parquet file"),
    ("a.parquet.zst", b"", "a.parquet.zst: Parquet cannot be read through .zst"),
]


@pytest.mark.parametrize(("name", "content", "problem"), REFUSED, ids=[f"{n}-{p[-30:]}" for n, _, p in REFUSED])
def test_a_faulty_file_is_refused_by_name_and_line(read, name, content, problem):
    with pytest.raises(DataError) as caught:
        read(name, content)
    assert caught.value.problem.startswith(problem)
    assert caught.value.remedy.endswith(".")


@pytest.mark.parametrize(("name", "content", "problem"), REFUSED, ids=[f"{n}-{p[-30:]}" for n, _, p in REFUSED])
def test_with_a_hook_the_same_fault_is_told_and_reading_goes_on(read, name, content, problem):
    told = []
    read(
        name,
        content,
        on_error=lambda error, origin: told.append((error.problem, error.problem.startswith(str(origin)))),
    )
    assert told
    assert told[0][0].startswith(problem)
    assert all(at_its_place for _, at_its_place in told)


def test_behind_a_faulty_line_the_others_are_read(read):
    told = []
    found = read(
        "a.jsonl",
        b'{"a": 1}\nno\n{"a": "caf\xe9"}\n7\n{"a": 4}\n',
        on_error=lambda error, origin: told.append(origin.line),
    )
    assert [fields["a"] for _, fields in found] == [1, "caf\ufffd", 4]
    assert told == [2, 3, 4]
    told.clear()
    found = read("a.csv", b"a,b\n1,2\n3\ncaf\xe9,5\n", on_error=lambda error, origin: told.append(origin.line))
    assert ([fields["a"] for _, fields in found], told) == (["1", "caf\ufffd"], [3, 4])


@pytest.mark.parametrize(("name", "module"), [("a.parquet", "pyarrow"), ("a.jsonl.zst", "zstandard")])
def test_a_missing_package_is_named_with_what_installs_it(read, monkeypatch, name, module):
    if module == "zstandard" and sys.version_info >= (3, 14):
        pytest.skip("Python 3.14 reads zstd itself")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError) as caught:
        read(name, b"")
    assert f"pip install {module}" in caught.value.remedy


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=9,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=5),
    st.integers(1, 30),
    st.booleans(),
    st.booleans(),
)
def test_a_stream_of_json_equals_the_whole(values, size, indent, listed):
    def dump(value):
        return json.dumps(value, indent=2 if indent else None, ensure_ascii=False)

    text = dump(values) if listed else "\n".join(map(dump, values))
    found = list(json_values(text[at : at + size] for at in range(0, len(text), size)))
    assert [value for value, _, _ in found] == values
    begins = (
        text.splitlines() if not any(c in text for c in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029") else text.split("\n")
    )
    for _, line, column in found:
        assert begins[line - 1][column - 1 if column else 0 :].lstrip(" [").startswith("{")


@given(st.text('{}[]":,1e-tru \\u', max_size=30), st.integers(1, 9))
def test_a_stream_is_refused_where_the_whole_is(text, size):
    """Whether text is JSON hangs on it alone, not on where it was cut into chunks."""

    def outcome(step):
        try:
            return list(json_values(text[at : at + step] for at in range(0, len(text), step)))
        except MalformedError as error:
            return error.line

    assert outcome(size) == outcome(len(text) + 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}\n{"a": 2}\n', True),
        ('\n  [{"a": 1}, {"a": 2}]', True),
        ('{\n  "a": 1\n}\n{"a": 2}', True),
        ('["one", "two"]\n["three"]\n', True),
        ('{"a": 1}\nand then prose\n', False),
        ("[Verse 1]\nOh", False),
        ("{{name}} is", False),
        ("1\n2\n3\n", False),
        ("", False),
        ("{}", False),
        ("[" * 100_000, False),
        ("[" + "1" * 5000 + "]", False),
        ('{"a": 1}\n{"a": 2', False),
    ],
)
def test_what_is_json_and_what_only_looks_like_it(text, expected):
    assert is_json(text, cut_from=10**6) is expected


def test_of_a_long_text_its_beginning_is_enough():
    assert is_json('[{"a": 1}, {"a": 2}, {"a": "thr', cut_from=10)
    assert is_json('{"a": 1}\n{"a": 2}\n{"a": 3', cut_from=10)
    assert not is_json('[{"a": 1}, {"a": 2}, and then prose', cut_from=10)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.xz", "a.csv.bz2", "a.tsv.zst", "a.parquet"])
def test_memory_does_not_grow_with_the_file(read, tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_io, "CHUNK", 1 << 16)
    words = random.Random(0)
    rows = [{"text": f"{n} " + words.randbytes(1500).hex()} for n in range(3000)]
    if name == "a.parquet":
        content = packed_rows(tmp_path / "made", rows, row_group_size=100)
    else:
        made = json.dumps(rows) if ".json." in name else table(rows, delimiter="\t" if "tsv" in name else ",")
        content = PACK["." + name.rpartition(".")[2]]((lines(rows) if "jsonl" in name else made).encode())
    (tmp_path / name).write_bytes(content)
    size = sum(len(row["text"]) for row in rows)
    del rows, content
    tracemalloc.start()
    try:
        assert sum(len(r.fields["text"]) for r in read_records(tmp_path / name, ReadOptions())) == size
        assert tracemalloc.get_traced_memory()[1] < size / 3
    finally:
        tracemalloc.stop()


def test_a_field_of_two_megabytes_is_read_from_a_table(read):
    text = 'a "quoted", long\nline ' * 100_000
    assert read("a.csv", table([{"text": text}]))[0][1]["text"] == text
