"""Long documents have the ids of the whole, whatever the tokenizer's added tokens and prefix space say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.data.chunking import chunk_text
from handloom.tokenizer import load_tokenizer
from hf_tokenizers import FOLDERS, write_json

TEXT = st.lists(st.sampled_from(["the loom", " the loom", "cat", "<x>", " ", "\t", "\n", "  ", "a", "é", "loom"]))


@pytest.fixture(scope="module", params=["prefix_space", "added", "added_decoder", "codeparrot"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    FOLDERS[request.param](folder)
    write_json(folder, "config.json", model_type="gpt2")
    return load_tokenizer(folder)


@settings(max_examples=300, deadline=None)
@given(words=TEXT, size=st.integers(1, 8))
def test_pieces_have_the_ids_of_the_whole(tokenizer, words, size):
    text = "".join(words)
    pieces = chunk_text([text], size=size, before=tokenizer.settings.cuts_before)
    assert [token for piece in pieces for token in tokenizer.encode(piece)] == tokenizer.encode(text)
