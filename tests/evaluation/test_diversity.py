"""Diversity by its definitions, on texts small enough to count by hand."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.evaluation.text_metrics import distinct, diversity, ngrams, repeated, word_spans, words


def test_counted_by_hand():
    found = diversity(["a b a b a b", "a c"])
    assert found.words == 8
    assert found.distinct_1 == 3 / 8
    assert found.distinct_2 == 3 / 6  # ab ba ac of ab ba ab ba ab ac
    assert found.distinct_3 == 2 / 4
    assert found.repeated_4 == pytest.approx(1 / 3)  # abab baba abab; the other text has no 4-gram


def test_a_loop_is_almost_all_repetition():
    assert repeated([["x"] * 103], 4) == pytest.approx(99 / 100)
    assert repeated([list(range(50))], 4) == 0


def test_where_there_is_nothing_to_count_there_is_no_number():
    found = diversity(["", "one"])
    assert (found.words, found.distinct_1, found.distinct_2, found.repeated_4) == (1, 1.0, None, None)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12), max_size=5), st.integers(1, 4))
def test_distinct_is_what_slices_count(texts, n):
    slices = [tuple(text[at : at + n]) for text in texts for at in range(len(text) - n + 1)]
    assert list(chain.from_iterable(ngrams(text, n) for text in texts)) == slices
    assert distinct(texts, n) == (len(set(slices)) / len(slices) if slices else None)


@given(st.text())
def test_words_leave_out_nothing_but_spaces(text):
    assert [text[start:end] for start, end in word_spans(text)] == words(text)
    assert "".join(words(text)) == "".join(text.split())
