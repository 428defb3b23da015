"""vocab.json and merges.txt: there and back, and what is refused, with which words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.errors import DataError
from handloom.tokenizer import load_tokenizer, vocab_files
from handloom.tokenizer.base import END_OF_TEXT
from handloom.tokenizer.bpe import BPETokenizer
from handloom.tokenizer.gpt2 import TiktokenTokenizer


@pytest.fixture
def folder(small, tmp_path):
    small.save(tmp_path / "deep" / "tokenizer")
    return tmp_path / "deep" / "tokenizer"


def test_save_then_load(small, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["merges.txt", "vocab.json"]
    assert b"\r" not in (folder / "merges.txt").read_bytes()
    for fast in (False, True):
        loaded = load_tokenizer(folder, fast=fast)
        assert loaded.fingerprint == small.fingerprint
        assert loaded.encode("the cat's mat") == small.encode("the cat's mat")
    load_tokenizer(str(folder)).save(folder)
    assert load_tokenizer(folder).fingerprint == small.fingerprint


def test_gpt2_saved_and_loaded_is_gpt2(gpt2_fast, tmp_path):
    gpt2_fast.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == gpt2_fast.fingerprint


def test_windows_line_ends_are_taken(small, folder):
    merges = folder / "merges.txt"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))
    assert load_tokenizer(folder).fingerprint == small.fingerprint


def edit_vocabulary(folder, change):
    path = folder / "vocab.json"
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    change(vocabulary)
    path.write_text(json.dumps(vocabulary), encoding="utf-8")


def edit_merges(folder, change):
    path = folder / "merges.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    change(lines)
    path.write_text("\n".join(lines), encoding="utf-8")


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


DAMAGE = {
    "vocabulary missing": (lambda f: (f / "vocab.json").unlink(), "no tokenizer file .*vocab.json"),
    "merges missing": (lambda f: (f / "merges.txt").unlink(), "no tokenizer file .*merges.txt"),
    "vocabulary torn": (write("vocab.json", b'{"a": 1, "b'), "vocab.json is not complete JSON"),
    "vocabulary empty": (write("vocab.json", b""), "vocab.json is not complete JSON"),
    "vocabulary nested": (write("vocab.json", b"[" * 200_000), "vocab.json is not complete JSON"),
    "vocabulary a list": (write("vocab.json", b"[1, 2]"), "vocab.json holds a JSON list"),
    "vocabulary binary": (write("vocab.json", b"\xff\xfe\x00"), "vocab.json is not UTF-8 text: byte 0"),
    "merges binary": (write("merges.txt", b"ab\xff"), "merges.txt is not UTF-8 text: byte 2"),
    "merges empty": (
        write("merges.txt", b""),
        "vocab.json: '.*' is neither a byte, nor made by a merge in .*merges.txt",
    ),
    "merges a folder": (
        lambda f: ((f / "merges.txt").unlink(), (f / "merges.txt").mkdir()),
        "merges.txt cannot be read",
    ),
    "no end of text": (lambda f: edit_vocabulary(f, lambda v: v.pop(END_OF_TEXT)), r"vocab.json lacks <\|endoftext\|>"),
    "same id twice": (
        lambda f: edit_vocabulary(f, lambda v: v.update({"a": v["b"]})),
        "vocab.json: 'a' and 'b' share the id 65",
    ),
    "foreign token": (
        lambda f: edit_vocabulary(f, lambda v: v.update({"word": 9999})),
        "vocab.json: 'word' is neither a byte, nor made by a merge in .*merges.txt, nor an added token",
    ),
    "byte missing": (
        lambda f: edit_vocabulary(f, lambda v: v.pop("q")),
        "vocab.json lacks the byte 'q' and an unk_token: it would vanish",
    ),
    "token missing": (
        lambda f: edit_vocabulary(f, lambda v: v.pop("at")),
        "vocab.json lacks the token 'at' of .*merges.txt's merge number .*, 'a' \\+ 't'",
    ),
    "id no number": (
        lambda f: edit_vocabulary(f, lambda v: v.update({"a": "64"})),
        "vocab.json: the id of 'a' is '64'; it must be a whole number below",
    ),
    "id true": (lambda f: edit_vocabulary(f, lambda v: v.update({"a": True})), "it must be a whole number below"),
    "id below 0": (lambda f: edit_vocabulary(f, lambda v: v.update({"a": -1})), "it must be a whole number below"),
    "unknown parts": (
        lambda f: edit_merges(f, lambda m: m.insert(3, "q xyz")),
        "lacks the token 'xyz' of .*merges.txt's merge number 3, 'q' \\+ 'xyz'",
    ),
    "a line cut short": (lambda f: edit_merges(f, lambda m: m.insert(3, "q")), "line 4: 'q' is not a pair"),
    "a merge twice": (
        lambda f: edit_merges(f, lambda m: m.insert(5, m[2])),
        "merges.txt: merge number 5, .* is there twice",
    ),
    "merges cut off": (lambda f: edit_merges(f, lambda m: m.pop(-2)), "vocab.json: '.*' is neither a byte"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_with_file_and_remedy(name, folder):
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_tokenizer(folder)
    assert str(folder) in caught.value.problem
    assert caught.value.remedy


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"no tokenizer folder .*nowhere"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no tokenizer folder 'gpt-2'"):
        load_tokenizer("gpt-2")


def test_a_folder_that_cannot_be_written(small, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot be saved in .*file"):
        small.save(tmp_path / "file")


@st.composite
def merge_lists(draw):
    """Any merges without a token made twice, most of them such as no learning gives."""
    tokens = {64: b"a", 65: b"b", 66: b"c"}
    merges = []
    for _ in range(draw(st.integers(1, 9))):
        pair = draw(st.tuples(st.sampled_from(list(tokens)), st.sampled_from(list(tokens))))
        joined = tokens[pair[0]] + tokens[pair[1]]
        if joined not in tokens.values():
            tokens[256 + len(merges)] = joined
            merges.append(pair)
    return merges


@given(merge_lists())
def test_in_order_means_that_every_token_encodes_to_itself(merges):
    tokenizer = BPETokenizer(merges)
    by_encoding = all(
        tokenizer.encode_piece(tokenizer.tokens[token]) == [token] for token in range(256, 256 + len(merges))
    )
    assert (tokenizer.in_order is not None) == by_encoding


@given(merge_lists(), st.text("abc", max_size=40))
def test_the_fast_way_is_always_the_same(merges, text):
    tokenizer = BPETokenizer(merges)
    assert TiktokenTokenizer(tokenizer).encode(text) == tokenizer.encode(text)


def test_every_byte_has_one_visible_letter():
    letters = vocab_files.visible(bytes(range(256)))
    assert len(set(letters)) == 256
    assert letters.isprintable()
    assert " " not in letters
    assert (vocab_files.visible(b" "), vocab_files.visible(b"\n"), vocab_files.visible(b"a")) == ("Ġ", "Ċ", "a")


def test_ids_without_a_token_are_known_however_it_is_encoded(small, folder):
    edit_vocabulary(folder, lambda words: words.update({word: at + 5 * (at > 99) for word, at in words.items()}))
    for fast in (False, True):
        assert load_tokenizer(folder, fast=fast).unused_ids == (100, 101, 102, 103, 104)
    assert small.unused_ids == ()
