"""Streaming: never half a character, nothing lost, nothing later than it must be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from handloom.tokenizer.base import StreamingDetokenizer
from handloom.tokenizer.vocab_files import ID_OF_BYTE


@given(st.lists(st.integers(-1, 50257)) | st.binary().map(lambda data: list(data.translate(ID_OF_BYTE))))
def test_joined_it_is_decode(gpt2_hand, ids):
    stream = StreamingDetokenizer(gpt2_hand)
    assert "".join([stream.add_token(token) for token in ids] + [stream.finalize()]) == gpt2_hand.decode(ids)


@given(st.text())
def test_valid_text_comes_whole_and_at_once(gpt2_hand, text):
    """Byte by byte: each character appears with its last byte, and no replacement ever does."""
    stream = StreamingDetokenizer(gpt2_hand)
    for character in text:
        *first, last = character.encode().translate(ID_OF_BYTE)
        assert [stream.add_token(token) for token in first] == [""] * len(first)
        assert stream.add_token(last) == character
    assert stream.finalize() == ""


def test_an_emoji_of_two_tokens(gpt2_fast):
    stream = StreamingDetokenizer(gpt2_fast)
    assert [stream.add_token(token) for token in gpt2_fast.encode("a 😀!")] == ["a", " ", "😀", "!"]
    assert stream.finalize() == ""


def test_what_stays_incomplete_is_replaced_at_the_end(gpt2_fast):
    stream = StreamingDetokenizer(gpt2_fast)
    half = gpt2_fast.encode("😀")[0]
    assert stream.add_token(half) == ""
    assert stream.finalize() == "\ufffd"
    assert stream.add_token(64) == "a"  # and the stream can be used again


def test_an_unknown_id_does_not_stop_it(gpt2_fast):
    stream = StreamingDetokenizer(gpt2_fast)
    assert stream.add_token(99999999) + stream.add_token(-1) + stream.finalize() == "\ufffd\ufffd"
