"""Spans are the text, and hold all of its surprise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.evaluation.html_report import LEVELS, shaded, visible
from handloom.evaluation.samples import Span, token_spans


@given(st.text(), st.randoms())
def test_spans_are_the_text_in_order_with_all_of_its_surprise(byte_tokenizer, text, chance):
    ids = byte_tokenizer.encode(text)
    nats = [chance.random() for _ in ids]
    made = token_spans(byte_tokenizer, ids, nats)
    assert "".join(span.text for span in made) == text.encode("utf-8", "replace").decode()
    assert sum(span.nats for span in made) == pytest.approx(sum(nats))
    at = 0
    for span in made:
        assert span.start == at
        at += len(span.text)


def test_a_character_of_several_tokens_is_one_span(byte_tokenizer):
    ids = byte_tokenizer.encode("aé🙂")
    made = token_spans(byte_tokenizer, ids, [1.0] * len(ids))
    assert [(span.text, span.nats) for span in made] == [("a", 1.0), ("é", 2.0), ("🙂", 4.0)]


def test_the_end_of_text_is_a_span_without_text_and_half_a_character_is_none(byte_tokenizer):
    ids = [*byte_tokenizer.encode("hi"), byte_tokenizer.eos_token_id]
    assert [span.text for span in token_spans(byte_tokenizer, ids, [1, 2, 3])] == ["h", "i", ""]
    half = byte_tokenizer.encode("hé")[:-1]
    assert [span.text for span in token_spans(byte_tokenizer, half, [1, 2])] == ["h"]


def test_ink_is_cut_where_a_copy_begins_and_ends():
    made = list(shaded((Span("abcd", 0.2, 0), Span("ef", 9.0, 4), Span("", 1.0, 6)), [(1, 3), (4, 6)]))
    assert [(ink.text, ink.copied) for ink in made[:-1]] == [
        ("a", False), ("bc", True), ("d", False), ("ef", True)
    ]  # fmt: skip
    assert made[-1].text == ""
    assert [ink.level for ink in made] == [0, 0, 0, len(LEVELS), 1]


@given(
    st.lists(st.text(min_size=1, max_size=5), max_size=6),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9)), max_size=3),
)
def test_ink_is_the_text_whatever_was_copied(texts, raw):
    ranges, at = [], 0
    for gap, length in raw:
        ranges.append((at + gap, at + gap + length))
        at += gap + length
    made, start = [], 0
    for text in texts:
        made.append(Span(text, 1.0, start))
        start += len(text)
    ink = list(shaded(tuple(made), ranges))
    assert "".join(piece.text for piece in ink) == "".join(texts)
    marked = [piece.copied for piece in ink for _ in piece.text]
    assert marked == [any(low <= i < high for low, high in ranges) for i in range(start)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext é 漢", "plain\n\ttext é 漢"),
        ("\x00\x1b[31m\r", "␀␛[31m␍"),
        ("a\u202eb\x7f", "a\ufffdb\ufffd"),
        ("\u200d\u202f\u3000", "\u200d\u202f\u3000"),
    ],
)
def test_what_is_no_character_is_shown_as_a_sign(text, shown):
    assert visible(text) == shown
