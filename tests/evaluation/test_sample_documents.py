"""The same text is chosen every time, whatever its names and order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.errors import DataError
from handloom.evaluation.texts import sample_documents, sample_files

TEXTS = st.lists(st.text("ab\né", min_size=1, max_size=60), min_size=1, max_size=12)


def named(texts):
    return [(f"d{number}", (text[:3], text[3:])) for number, text in enumerate(texts)]


@given(TEXTS, st.integers(4, 200), st.randoms())
def test_the_choice_depends_on_neither_names_nor_order(texts, limit, chance):
    chosen = sample_documents("here", named(texts), limit)
    others = list(texts)
    chance.shuffle(others)
    again = sample_documents("here", named(others), limit)
    assert [text for _, text in chosen.documents] == [text for _, text in again.documents]


@given(TEXTS, st.integers(4, 200))
def test_it_is_as_much_as_there_is_and_no_more_than_asked_for(texts, limit):
    chosen = sample_documents("here", named(texts), limit)
    there = sum(len(text.encode()) for text in set(texts))
    assert 0 < chosen.bytes <= limit
    assert chosen.whole == (there <= limit)
    if chosen.whole:
        assert {text for _, text in chosen.documents} == set(texts)
    elif len(chosen.documents) > 1:
        longest = max(len(text.encode()) for text in texts)
        assert chosen.bytes > limit - longest
    for name, text in chosen.documents:
        assert texts[int(name[1:])].startswith(text)


def test_a_long_document_is_cut_at_the_end_of_a_line_and_not_read_further():
    read = []

    def pieces():
        for number in range(1000):
            read.append(number)
            yield f"line {number}\n"

    chosen = sample_documents("here", [("d", pieces())], 100)
    ((_, text),) = chosen.documents
    assert text.endswith("\n")
    assert 90 <= chosen.bytes <= 100
    assert len(read) < 20
    assert not chosen.whole


def test_copies_count_once_and_nothing_is_an_error():
    assert sample_documents("here", [("a", ["x"]), ("b", ["x"])], 10).documents == (("a", "x"),)
    with pytest.raises(DataError, match="here: no text"):
        sample_documents("here", [("a", [""])], 10)


def test_files_are_chosen_from(tmp_path):
    (tmp_path / "a.txt").write_text("some text", encoding="utf-8")
    chosen = sample_files([str(tmp_path / "a.txt")], 1000)
    assert [text for _, text in chosen.documents] == ["some text"]
    assert chosen.source == str(tmp_path / "a.txt")
