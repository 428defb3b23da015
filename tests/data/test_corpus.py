"""Sources become documents: order, decoding, and an error that names file and place for each bad input."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from handloom.data import text_io
from handloom.data.corpus import open_corpus
from handloom.data.text_io import ReadOptions
from handloom.errors import ConfigError, DataError


def texts(sources, **settings):
    return {document.name: document.text() for document in open_corpus(sources, **settings).documents()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_walked_in_sorted_order_with_known_suffixes(folder):
    for name in ("b.txt", "a.md", "sub/c.py", "sub/picture.png", ".hidden/d.txt", "__pycache__/e.py", ".f.txt"):
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_text(name, encoding="utf-8")
    assert texts(["in"]) == {"in/a.md": "a.md", "in/b.txt": "b.txt", "in/sub/c.py": "sub/c.py"}
    assert list(texts("in")) == sorted(texts("in"))


def test_globs_match_files_sorted(folder):
    for name in ("b.rst", "a.rst", "c.txt"):
        (folder / name).write_text(name, encoding="utf-8")
    assert list(texts(["*.rst"])) == ["a.rst", "b.rst"]


def test_a_source_named_twice_is_read_once(folder):
    (folder / "a.txt").write_text("x", encoding="utf-8")
    assert len(list(open_corpus(["a.txt", "a.txt"]).documents())) == 1


def test_jsonl_gives_a_document_a_line(folder):
    lines = [json.dumps({"text": "one\r\ntwo"}), "", json.dumps({"text": "zwei \U0001f600", "id": 7})]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with gzip.open(folder / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"body": "three"}))
    assert texts(["a.jsonl"]) == {"a.jsonl:1": "one\ntwo", "a.jsonl:3": "zwei \U0001f600"}
    assert texts(["b.jsonl.gz"], text_field="body") == {"b.jsonl.gz:1": "three"}


def test_byte_order_mark_and_line_ends_are_normalized(folder):
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n\xef\xbb\xbf")
    assert texts(["a.txt"]) == {"a.txt": "one\ntwo\nthree\n\ufeff"}
    (folder / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}')
    assert texts(["a.jsonl"]) == {"a.jsonl:1": "x"}


def test_an_unknown_suffix_given_by_name_is_read_as_text(folder):
    (folder / "LICENSE").write_text("free", encoding="utf-8")
    assert texts(["LICENSE"]) == {"LICENSE": "free"}


def test_standard_input_is_kept_for_a_second_walk(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("gr\u00fcn".encode())))
    corpus = open_corpus(["-"])
    assert [d.text() for d in corpus.documents()] == [d.text() for d in corpus.documents()] == ["gr\u00fcn"]


@given(st.binary(max_size=60), st.integers(3, 9))
def test_text_in_chunks_equals_the_whole(tmp_path_factory, data, chunk):
    """Whatever the chunk size: the same text, or the same offset of the same bad byte."""
    data = data.replace(b"\0", b"\r")
    assume(not data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1")))  # refused as what it is
    path = tmp_path_factory.mktemp("chunks") / "a.txt"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_io, "CHUNK", chunk)
        try:
            expected = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
        except UnicodeDecodeError as error:
            start = error.start + (len(data) - len(error.object))
            with pytest.raises(DataError, match=rf"byte {start} \(0x{data[start]:02x}\) is not UTF-8"):
                "".join(text_io.stream(path, "a.txt", ReadOptions()))
        else:
            expected = expected.replace("\r\n", "\n").replace("\r", "\n")
            assert "".join(text_io.stream(path, "a.txt", ReadOptions())) == expected


def test_undecodable_bytes_can_be_replaced(folder):
    (folder / "a.txt").write_bytes(b"caf\xe9 ok")
    assert texts(["a.txt"], encoding_errors="replace") == {"a.txt": "caf\ufffd ok"}
    (folder / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "\\ud800x\\ud83d\\ude00"}')
    assert texts(["a.jsonl"], encoding_errors="replace") == {"a.jsonl:1": "caf\ufffd", "a.jsonl:2": "\ufffdx\U0001f600"}


BAD_FILES = [
    ("latin.txt", b"caf\xe9", "latin.txt: byte 3 (0xe9) is not UTF-8."),
    ("program", b"\x7fELF\0\0", "program: a binary file (zero byte at offset 4), not text."),
    ("notes.txt", "\ufeffhi".encode("utf-16-le"), "notes.txt: text in UTF-16, not UTF-8."),
    ("empty.txt", b"", "empty.txt: the file is empty."),
    ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl, line 2: not JSON"),
    ("a.jsonl", b'{"text": "x"}\n["y"]', "a.jsonl, line 2: a list, not an object."),
    ("a.jsonl", b'{"body": "x", "id": 1}', 'a.jsonl, line 1: no field "text" (fields there: body, id).'),
    ("a.jsonl", b'{"text": 5}', 'a.jsonl, line 1: field "text" is a number, not a string.'),
    ("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}', "a.jsonl, line 2: byte 13 (0xe9) is not UTF-8."),
    ("a.jsonl", b'{"text": "a\\ud800b"}', "a.jsonl, line 1: character 1 of the text is a lone surrogate (U+D800)"),
    ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not JSON"),
    ("a.jsonl.gz", b'{"text": "x"}', "a.jsonl.gz: not a whole gzip file"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "x"}' * 99)[:-9], "a.jsonl.gz: not a whole gzip file"),
]


@pytest.mark.parametrize(("name", "data", "problem"), BAD_FILES, ids=[f"{n}-{p[:40]}" for n, _, p in BAD_FILES])
def test_a_bad_file_is_refused_by_name(folder, name, data, problem):
    (folder / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        texts([name])
    assert caught.value.problem.startswith(problem)
    assert caught.value.remedy.endswith((".", "?"))


def test_sources_that_hold_nothing(folder, monkeypatch):
    (folder / "hollow").mkdir()
    (folder / "hollow" / "picture.png").write_bytes(b"x")
    (folder / "shakespeare.txt").write_text("x", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    expected = {
        "hollow": (
            "hollow: the folder holds no text file (.txt, .md, .py, .jsonl, .ndjson, .parquet). 1 file in a "
            "folder was left out for its suffix (1 .png): hollow/picture.png.",
            "Name a folder",
        ),
        "*.rst": ("*.rst: no file matches.", "Check the pattern"),
        "shakespear.txt": ("shakespear.txt: no such file or folder.", 'Did you mean "shakespeare.txt"?'),
        "python-doc": ("python-doc: no such file or folder.", 'Did you mean "python-docs"?'),
        "q/w/e": ("q/w/e: no such file or folder.", "Check the path, or name a built-in corpus (python-docs, "),
        "-": ("Standard input is empty.", "Pipe text"),
    }
    for source, (problem, remedy) in expected.items():
        with pytest.raises(DataError) as caught:
            open_corpus([source])
        assert caught.value.problem == problem
        assert caught.value.remedy.startswith(remedy)
    with pytest.raises(DataError, match="No data was named"):
        open_corpus([])
    with pytest.raises(ConfigError, match='encoding_errors is "ignore"'):
        open_corpus(["-"], encoding_errors="ignore")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root reads everything")
def test_no_permission_to_read(folder):
    (folder / "a.txt").write_text("x", encoding="utf-8")
    (folder / "a.txt").chmod(0)
    with pytest.raises(DataError, match=r"a.txt: cannot be read"):
        texts(["a.txt"])
