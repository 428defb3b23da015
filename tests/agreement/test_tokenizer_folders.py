"""Tokenizers that Hugging Face's libraries trained: ids equal to what AutoTokenizer gives for that very folder."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from handloom.tokenizer import load_tokenizer
from hf_tokenizers import FOLDERS

WORDS = ["loom", "the loom", "cat", "cats", " the", "<x>", " <x> ", "<|im_end|>", "<|endoftext|>", "</s>", "<pad>"]
TEXT = st.lists(
    st.sampled_from([*WORDS, *"éqш😀!\t\n  abc", "  ", "'s", "abcabc", "aaa", "мир", "12"])
    | st.characters(min_codepoint=1, max_codepoint=0x24F)
).map("".join)


@pytest.fixture(scope="module", params=FOLDERS)
def both(request, tmp_path_factory):
    """Our tokenizer, fast and by hand, the same after saving and loading, and theirs."""
    folder = tmp_path_factory.mktemp(request.param)
    FOLDERS[request.param](folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    ours = load_tokenizer(folder)
    ours.save(folder / "saved")
    again = load_tokenizer(folder / "saved")
    return (ours, load_tokenizer(folder, fast=False), again), AutoTokenizer.from_pretrained(folder), folder


@settings(max_examples=200, deadline=None)
@given(text=TEXT)
def test_typed_text_has_their_ids(both, text):
    for ours in both[0]:
        assert ours.encode(text) == both[1].encode(text, split_special_tokens=True)


@settings(max_examples=100, deadline=None)
@given(text=TEXT)
def test_special_tokens_are_theirs_where_they_are_asked_for(both, text):
    for ours in both[0]:
        assert ours.encode(text, special=True) == both[1].encode(text)


def test_ids_stand_for_the_same(both):
    (ours, _, again), theirs, _ = both
    assert ours.vocab_size in (len(theirs), len(theirs) - 1)  # GPT2Tokenizer adds an <|endoftext|> that is not there
    for token in range(ours.vocab_size):
        assert ours.decode([token]) == theirs.decode([token], clean_up_tokenization_spaces=False)
    assert ours.fingerprint == again.fingerprint
    assert (ours.eos_token_ids, ours.eos_token_id) == (again.eos_token_ids, again.eos_token_id)
    assert ours.settings.named.items() <= again.settings.named.items()


def test_what_is_saved_is_the_same_to_them(both):
    (ours, *_), theirs, folder = both
    saved = AutoTokenizer.from_pretrained(folder / "saved")
    for text in ("the cat's loom <x> abc <|im_end|></s> мир q", " the loom", "abcabcaaa"):
        assert saved.encode(text) == theirs.encode(text)
    assert ours.eos_token_ids == (
        (theirs.eos_token_id,) if theirs.eos_token_id < ours.vocab_size else ours.eos_token_ids
    )
