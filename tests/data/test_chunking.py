"""Cutting long texts: the pieces are the text, and their tokens are the tokens of the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.data.chunking import chunk_text, split_tail
from handloom.tokenizer import load_tokenizer

# What could make a difference to the split pattern: every kind of character, contractions, odd whitespace.
AWKWARD = st.text(
    st.sampled_from(
        list("ab'sLl1\u0663.,!\u00e9\u4e2d\U0001f600\u0301\u200d\ufffd \n\t\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028")
    ),
    max_size=80,
) | st.text(max_size=80)


@pytest.fixture(scope="module")
def reference():
    return load_tokenizer("gpt2", fast=False)


def chunked(text, size):
    return [text[at : at + size] for at in range(0, len(text), size)]


@given(AWKWARD, st.integers(1, 12), st.integers(1, 9))
def test_tokens_of_the_pieces_are_the_tokens_of_the_whole(reference, text, size, chunk):
    pieces = list(chunk_text(chunked(text, chunk), size=size, longest=10_000))
    assert "".join(pieces) == text
    assert all(pieces)
    assert [token for piece in pieces for token in reference.encode(piece)] == reference.encode(text)


@given(AWKWARD, st.integers(1, 12), st.integers(0, 12), st.integers(1, 9))
def test_pieces_do_not_depend_on_where_the_chunks_end(text, size, more, chunk):
    """Not even where a cut is forced, so preparing again gives the same tokens."""
    pieces = list(chunk_text(chunked(text, chunk), size=size, longest=size + more))
    assert pieces == list(chunk_text([text] if text else [], size=size, longest=size + more))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size + more for piece in pieces)


def test_a_piece_ends_where_a_word_does():
    assert list(chunk_text(["one two  three\n\nfour"], size=8)) == ["one two", "  three", "\n\nfour"]
    assert list(chunk_text(["longer than eight"], size=4)) == ["longer", " than", " eight"]
    assert list(chunk_text(["x" * 10], size=4, longest=6)) == ["x" * 6, "x" * 4]


def test_safe_places_far_from_the_end_are_found():
    text = "a b" + "c" * 1_000 + " d"
    assert list(chunk_text([text], size=600)) == ["a", " b" + "c" * 1_000, " d"]


@given(AWKWARD, st.integers(0, 100), st.integers(1, 9))
def test_the_tail_is_the_end_of_the_text_wherever_the_chunks_end(text, mark, chunk):
    def parted(chunks):
        parts = list(split_tail(chunks, mark))
        sides = [is_tail for is_tail, _ in parts]
        assert sides == sorted(sides)  # head before tail
        return tuple("".join(part for is_tail, part in parts if is_tail is side) for side in (False, True))

    head, tail = parted(chunked(text, chunk))
    assert head + tail == text
    assert (head, tail) == parted([text] if text else [])
    assert bool(head) == bool(text)


@pytest.mark.parametrize(
    ("text", "mark", "tail"),
    [
        ("one\ntwo\nthree\nfour", 5, "three\nfour"),
        ("one\ntwo\nthree", 4, "two\nthree"),  # a line begins at the mark itself
        ("one two three", 5, " three"),
        ("one two three\n", 5, " three\n"),  # the last line end has no text behind it
        ("onetwothree", 4, "wothree"),
        ("\u00e9\u00e9\u00e9", 3, "\u00e9\u00e9"),  # never within a character
        ("one", 0, "ne"),  # even the shortest text has a head
        ("o", 0, ""),
        ("one", 3, ""),
    ],
)
def test_the_tail_begins_with_a_line_else_a_word(text, mark, tail):
    assert "".join(part for is_tail, part in split_tail([text], mark) if is_tail) == tail
