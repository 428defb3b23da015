"""What was copied is found, as by somebody who looks at every place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.evaluation.text_metrics import GRAM, TrainingPiece, copied_ranges, search, words

LETTERS = st.text("ab \n", max_size=24)
WORDS = st.lists(st.sampled_from(["a", "b", ".", "c"]), max_size=24).map(" ".join)


def pieces(documents, cuts=()):
    """Documents as pieces, each cut behind its first space if its number is in `cuts`."""
    for number, text in enumerate(documents):
        at = text.find(" ") + 1
        if number in cuts and at:
            yield TrainingPiece(f"d{number}", text[:at], ends=False)
            yield TrainingPiece(f"d{number}", text[at:], ends=True)
        else:
            yield TrainingPiece(f"d{number}", text, ends=True)


def longest_by_looking(text, documents):
    runs = [text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
    return max((len(run) for run in runs if any(run in document for document in documents)), default=0)


def grams_by_looking(text, documents):
    mine = words(text)
    theirs = [words(document) for document in documents]
    return [
        at
        for at in range(len(mine) - GRAM + 1)
        if any(mine[at : at + GRAM] == other[k : k + GRAM] for other in theirs for k in range(len(other) - GRAM + 1))
    ]


@given(st.lists(LETTERS, max_size=4), st.lists(LETTERS, max_size=4), st.sets(st.integers(0, 3)))
def test_the_longest_overlap_is_what_looking_everywhere_finds(texts, documents, cuts):
    for text, found in zip(texts, search(texts, pieces(documents, cuts)), strict=True):
        length = longest_by_looking(text, documents)
        if found.longest is None:
            assert length == 0
            continue
        one = found.longest
        assert one.characters == length
        assert text[one.start : one.start + length] == one.text
        document = documents[int(one.document.removeprefix("d"))]
        assert document[one.offset : one.offset + length] == one.text


@given(st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=4), st.sets(st.integers(0, 3)))
def test_copied_grams_are_what_looking_everywhere_finds(texts, documents, cuts):
    for text, found in zip(texts, search(texts, pieces(documents, cuts)), strict=True):
        assert list(found.found) == grams_by_looking(text, documents)
        assert found.grams == max(0, len(words(text)) - GRAM + 1)
        marks = [False] * len(text)
        for start, end in copied_ranges(text, found):
            assert not any(marks[start:end]), "two ranges overlap"
            marks[start:end] = [True] * (end - start)
        spans = [i for at in found.found for i in range(at, at + GRAM)]
        assert {i for i, word in enumerate(words(" ".join(words(text)))) if i in spans} == set(spans)


def test_a_copy_with_other_spaces_is_one_by_words_and_not_by_characters():
    original = "one two three four five six seven eight nine"
    (found,) = search([original.replace(" ", "\n")], [TrainingPiece("d", original, True)])
    assert found.share == 1.0
    assert found.longest.text == "three"
    assert copied_ranges(original, found) == [(0, len(original))]


def test_no_match_reaches_from_one_document_into_the_next():
    training = [TrainingPiece("a", "one two three four", True), TrainingPiece("b", " five six seven eight", True)]
    (found,) = search(["one two three four five six seven eight"], training)
    assert found.found == ()
    assert found.longest.text == " five six seven eight"
    joined = [TrainingPiece("a", training[0].text, False), TrainingPiece("a", training[1].text, True)]
    (found,) = search(["one two three four five six seven eight"], joined)
    assert (found.found, found.longest.start, found.longest.offset) == ((0,), 0, 0)


def test_nothing_is_shared_with_nothing():
    assert [each.longest for each in search(["abc", ""], [])] == [None, None]
    (found,) = search(["short"], [TrainingPiece("d", "other", True)])
    assert (found.grams, found.share) == (0, None)


def test_each_text_gets_a_place_of_its_own():
    training = [TrainingPiece("a", "xx hello xx", True), TrainingPiece("b", "hello there", True)]
    found = search(["hello x", "hello there", "say hello"], training)
    assert [(each.longest.document, each.longest.offset) for each in found] == [("a", 3), ("b", 0), ("a", 2)]


@pytest.mark.parametrize("text", ["naïve café – 漢字", "🙂🙃🙂", "\x00\x01\x02"])
def test_any_character_counts_as_one(text):
    (found,) = search([text], [TrainingPiece("d", f"__{text}__", True)])
    assert found.longest.text == text
    assert found.longest.offset == 2
