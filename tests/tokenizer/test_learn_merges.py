"""Learning: the same merges as the definition, ties and overlaps included."""

from __future__ import annotations

import weakref
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.errors import ConfigError
from handloom.tokenizer.pretokenize import pretokenize
from handloom.tokenizer.train import train_bpe
from handloom.tokenizer.vocab_files import ID_OF_BYTE


def naive_merges(texts, wanted):
    """The definition: count all adjacent pairs afresh, join the most frequent everywhere, repeat."""
    words = [list(piece.encode().translate(ID_OF_BYTE)) for text in texts for piece in pretokenize(text)]
    merges = []
    while len(merges) < wanted:
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [256 + len(merges)]
                i += 1
        merges.append(best)
    return merges


RUNS = st.text("ab", max_size=60) | st.text("a", max_size=60)  # overlapping pairs and many ties
WORDS = st.text("abc '1!\n", max_size=80)


@settings(max_examples=500)
@given(st.lists(RUNS | WORDS | st.text(), max_size=5), st.integers(0, 40))
def test_merges_are_those_of_the_definition(texts, wanted):
    assert train_bpe(texts, 257 + wanted).merges == naive_merges(texts, wanted)


def test_merges_of_real_text_are_those_of_the_definition():
    texts = [train_bpe.__doc__, naive_merges.__doc__, "aaaa aaaaa aaaaaaa " * 3]
    assert train_bpe(texts, 257 + 300).merges == naive_merges(texts, 300)


def test_ties_go_to_the_smallest_ids():
    a, b, c = (ID_OF_BYTE[byte] for byte in b"abc")
    assert train_bpe(["cb cb ab ab"], 258).merges == [(a, b)]
    assert train_bpe(["ca\nca\ncb\ncb"], 258).merges == [(c, a)]


def test_overlapping_pairs_are_all_counted():
    a, b = (ID_OF_BYTE[byte] for byte in b"ab")
    assert train_bpe(["aaaa\nab\nab"], 258).merges == [(a, a)]  # three times, against two
    assert train_bpe(["aaa\nab\nab\nab"], 258).merges == [(a, b)]  # two, against three


@given(st.lists(WORDS, max_size=5))
def test_the_order_of_texts_does_not_matter(texts):
    assert train_bpe(texts, 290).merges == train_bpe(reversed(texts), 290).merges


def test_texts_are_taken_one_at_a_time_and_let_go():
    class Text(str):
        """A string that can be watched."""

    seen = []

    def texts():
        for number in range(6):
            text = Text(f"the cat number {number} ")
            seen.append(weakref.ref(text))
            yield text
            del text
            assert sum(ref() is not None for ref in seen) <= 1  # at most the one in the loop's hand

    train_bpe(texts(), 270)
    assert len(seen) == 6
    assert all(ref() is None for ref in seen)


def test_it_stops_when_no_pair_occurs_twice():
    assert train_bpe(["ab ab xyz"], 1000).tokens[256:-1] == [b"ab"]  # ' ab' occurs once


def test_nothing_to_learn_from():
    for texts in ([], [""], ["a"]):
        assert train_bpe(texts, 4096).vocab_size == 257


def test_too_small_a_vocabulary():
    with pytest.raises(ConfigError, match="vocabulary of 256 is too small"):
        train_bpe(["text"], 256)


def test_progress():
    seen = []
    train_bpe(["ab ab abc abc"], 260, on_progress=lambda done, wanted: seen.append((done, wanted)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_special_token_is_learned_from_as_plain_text():
    learned = train_bpe(["<|endoftext|>" * 50], 400)
    assert [learned.tokens[token] for token in learned.encode("<|endoftext|>")] == [b"<|", b"endoftext", b"|>"]


def test_surrogates_do_not_stop_it():
    assert train_bpe(["\ud800\ud800"], 258).vocab_size == 258
