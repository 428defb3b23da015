"""The split into pieces, and where a text may be cut without changing it."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from handloom.tokenizer.pretokenize import chunks, pretokenize, well_formed

TRICKY = [
    *"'aé½٣!😀 \n\t\xa0\u3000\x1c\x85\u200b\u0378\U00031350\U000323b0\U0003d000\U0001e6c0\ud83d\ude00",
    *("'s", "'LL", "  ", "\r\n", "<|endoftext|>"),
]
TEXT = st.lists(st.sampled_from(TRICKY) | st.characters()).map("".join)


# GPT-2's pattern as it was published.
PUBLISHED = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")


def test_pieces_of_a_sentence():
    assert pretokenize("I've  2 cats,\n\nhe'd said ") == (
        ["I", "'ve", " ", " 2", " cats", ",", "\n", "\n", "he", "'d", " said", " "]
    )


@given(TEXT)
def test_pieces_joined_are_the_text(text):
    assert "".join(pretokenize(text)) == well_formed(text)


@given(st.lists(st.sampled_from(TRICKY) | st.characters(max_codepoint=0x500)).map("".join))
def test_split_is_the_published_pattern(text):
    text = regex.sub(r"[^\x00-\u0557]", "?", text)  # letters on which all versions of Unicode agree
    assert pretokenize(text) == PUBLISHED.findall(text)


@given(TEXT, st.integers(min_value=1, max_value=8))
def test_chunks_do_not_change_the_split(text, size):
    text = well_formed(text)
    parts = list(chunks(text, size))
    assert "".join(parts) == text
    assert [piece for part in parts for piece in pretokenize(part)] == pretokenize(text)


@given(TEXT, TEXT, st.integers(min_value=1, max_value=8))
def test_a_stream_is_cut_by_holding_the_last_chunk_back(one, two, size):
    one, two = well_formed(one), well_formed(two)
    *ready, rest = chunks(one, size) if one else [""]
    pieces = [piece for part in [*ready, *chunks(rest + two, size)] for piece in pretokenize(part)]
    assert pieces == pretokenize(one + two)


def test_chunks_are_short_where_there_is_white_space():
    assert max(map(len, chunks("word " * 1000, 100))) <= 105
    assert [len(part) for part in chunks(" " * 5000 + "x" * 5000, 100)] == [4999, 5001]


def test_letters_that_unicode_got_after_version_16_are_signs():
    assert pretokenize("a\U0003d000a") == ["a", "\U0003d000", "a"]  # a seal character


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ud83d\ude00", "😀"),
        ("\ud83d", "\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83dx", "\ufffdx"),
        ("\ufeff\ud83d", "\ufeff\ufffd"),
    ],
)
def test_surrogates(text, expected):
    assert well_formed(text) == expected
