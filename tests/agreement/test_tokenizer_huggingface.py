"""Saved vocabularies mean the same to Hugging Face's `tokenizers`, and its trainer learns the same merges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from handloom.data.corpus import open_corpus
from handloom.tokenizer.gpt2 import TiktokenTokenizer, gpt2_bpe
from handloom.tokenizer.train import train_bpe
from handloom.tokenizer.vocab_files import visible

# Scripts that every version of Unicode in use classes alike.
TEXT = st.lists(
    st.sampled_from([*"é½٣ש漢😀!\t\n ", "  ", "'s", "'ve", "the", " cat", "12"])
    | st.characters(min_codepoint=1, max_codepoint=0x24F)
).map("".join)


def byte_level(model):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


@pytest.fixture(scope="module")
def docs():
    return [document.text() for document in open_corpus("python-docs").documents()][:400]


@pytest.fixture(scope="module")
def learned(docs):
    return train_bpe(docs, 1_500)


@pytest.fixture(scope="module", params=["learned", "gpt2"])
def trio(request, tmp_path_factory):
    """The hand-written tokenizer, the fast one, and theirs, loaded from what ours saved."""
    ours = request.getfixturevalue("learned") if request.param == "learned" else gpt2_bpe()
    folder = tmp_path_factory.mktemp(request.param)
    ours.save(folder)
    return (
        ours,
        TiktokenTokenizer(ours),
        byte_level(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))),
    )


@settings(max_examples=1_000)
@given(text=TEXT)
def test_saved_vocabularies_encode_alike(text, trio):
    ours, fast, theirs = trio
    assert ours.encode(text) == fast.encode(text) == theirs.encode(text).ids


def test_saved_vocabularies_encode_real_text_alike(docs, trio):
    ours, fast, theirs = trio
    for text in docs:
        assert ours.encode(text) == fast.encode(text) == theirs.encode(text).ids


def test_their_trainer_learns_the_same_merges(docs, learned):
    theirs = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=learned.vocab_size - 1,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(docs, trainer)
    tokens = [theirs.id_to_token(token) for token in range(theirs.get_vocab_size())]
    assert tokens == [visible(token) for token in learned.tokens[:-1]]
