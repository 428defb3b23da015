"""The hand-written encoder against a naive one, and that nothing makes it stumble."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.base import END_OF_TEXT
from handloom.tokenizer.bpe import UNKNOWN
from handloom.tokenizer.pretokenize import pretokenize, well_formed

GPT2_FINGERPRINT = "05d5e85fd1d0b15ce2d527245017f8a6ae2172678f7751885c9e61dd6a576eac"


def naive_encode(tokenizer, text):
    """Sennrich's definition: go through the merges in order, apply each everywhere, left to right."""
    ids = []
    for piece in pretokenize(text):
        parts = [bytes([byte]) for byte in piece.encode()]
        for left, right in tokenizer.merges:
            pair, i = [tokenizer.tokens[left], tokenizer.tokens[right]], 0
            while i < len(parts) - 1:
                if parts[i : i + 2] == pair:
                    parts[i : i + 2] = [pair[0] + pair[1]]
                i += 1
        ids += map(tokenizer.tokens.index, parts)
    return ids


@given(st.text() | st.text("the cat's. ", max_size=60))
def test_encode_is_the_definition(small, text):
    assert small.encode(text) == naive_encode(small, text)


@given(st.text(st.characters()))
def test_round_trip(gpt2_hand, text):
    assert gpt2_hand.decode(gpt2_hand.encode(text)) == well_formed(text)


@given(st.lists(st.integers() | st.integers(0, 50257)))
def test_decoding_is_total(gpt2_hand, ids):
    text = gpt2_hand.decode(ids)
    assert text == b"".join(map(gpt2_hand.token_bytes, ids)).decode("utf-8", "replace")
    assert all(gpt2_hand.token_bytes(token) == UNKNOWN for token in ids if not 0 <= token < 50257)


def test_unknown_ids_become_the_replacement_character(small):
    assert small.decode([-1, 66, small.vocab_size]) == "\ufffdc\ufffd"


def test_typing_the_special_token_does_not_give_it(gpt2_hand, gpt2_fast, small):
    for tokenizer in (gpt2_hand, gpt2_fast, small):
        for text in (END_OF_TEXT, f"a{END_OF_TEXT}{END_OF_TEXT} b"):
            ids = tokenizer.encode(text)
            assert tokenizer.eos_token_id not in ids
            assert tokenizer.decode(ids) == text
        assert tokenizer.decode([tokenizer.eos_token_id]) == END_OF_TEXT
        assert tokenizer.eos_token_id == tokenizer.vocab_size - 1


@given(st.text() | st.text("the cat's. ", max_size=60))
def test_show_work_ends_in_the_ids(small, text):
    work = small.show_work(text)
    assert [token for piece in work for token in piece.ids] == small.encode(text)
    assert [piece.piece for piece in work] == pretokenize(text)
    for piece in work:
        before = piece.start
        for step in piece.steps:
            assert small.tokens[256 + step.rank] == step.left + step.right
            assert step.parts[step.place] == step.left + step.right
            assert (*step.parts[: step.place], step.left, step.right, *step.parts[step.place + 1 :]) == before
            assert b"".join(step.parts) == piece.piece.encode()
            before = step.parts
        assert tuple(small.tokens[token] for token in piece.ids) == before


def test_show_work_takes_the_leftmost_first(gpt2_hand):
    (work,) = gpt2_hand.show_work("aaaaa")
    assert [step.parts[0] for step in work.steps][:2] == [b"aa", b"aa"]
    assert work.steps[1].parts == (b"aa", b"aa", b"a")


def test_a_word_of_100_000_letters(gpt2_hand, gpt2_fast):
    word = "abracadabra" * 9_100
    assert gpt2_hand.encode(word) == gpt2_fast.encode(word)


def test_the_cache_is_bounded_and_changes_nothing(monkeypatch, gpt2_fast, gpt2_hand):
    monkeypatch.setattr("handloom.tokenizer.bpe._CACHED_PIECES", 10)
    fresh = pickle.loads(pickle.dumps(gpt2_hand))
    text = " ".join(map(str, range(300))) * 2
    assert fresh.encode(text) == gpt2_fast.encode(text)
    assert 0 < len(fresh._cache) <= 10


def test_pickling_carries_the_merges_and_no_cache(small):
    small.encode("the cat")
    copy = pickle.loads(pickle.dumps(small))
    assert copy.fingerprint == small.fingerprint
    assert copy._cache == {}


def test_fingerprints_tell_vocabularies_apart(gpt2_hand, gpt2_fast, small):
    assert gpt2_hand.fingerprint == gpt2_fast.fingerprint == GPT2_FINGERPRINT
    assert small.fingerprint != GPT2_FINGERPRINT
    assert type(small)(small.merges[:-1]).fingerprint != small.fingerprint


def test_the_fingerprint_is_the_same_in_another_process(small, tmp_path):
    small.save(tmp_path / "saved")
    code = "import sys, handloom.tokenizer as b; print(b.load_tokenizer(sys.argv[1]).fingerprint)"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "saved")], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == small.fingerprint == load_tokenizer(tmp_path / "saved").fingerprint


def test_an_empty_text_has_no_ids(gpt2_hand, gpt2_fast):
    for tokenizer in (gpt2_hand, gpt2_fast):
        assert tokenizer.encode("") == []
        assert tokenizer.decode([]) == ""
        assert tokenizer.encode_batch(["", "a b", ""]) == [[], tokenizer.encode("a b"), []]


@pytest.mark.parametrize("module", ["base", "bpe", "train", "gpt2", "chat"])
def test_no_torch(module):
    code = f"import sys, handloom.tokenizer.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
