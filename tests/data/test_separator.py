"""`<|endoftext|>`, or any other line, separates documents in a text file, wherever chunks end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.data.chunking import split_documents
from handloom.data.corpus import open_corpus
from handloom.data.lint import DataStats, LintSettings, lint
from handloom.data.split import assign_splits, pieces
from handloom.data.tokenized import prepare
from handloom.errors import ConfigError
from handloom.tokenizer.base import END_OF_TEXT

STORIES = f"Once.\nThe end.\n{END_OF_TEXT}\nTwice.\n{END_OF_TEXT}\nThrice.\n"


def split(text, separator=END_OF_TEXT, size=1 << 20):
    def read():
        return (text[at : at + size] for at in range(0, len(text), size))

    return [(line, "".join(pieces())) for line, pieces in split_documents(read, separator)]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("text", "documents"),
    {
        STORIES: [(1, "Once.\nThe end.\n"), (4, "Twice.\n"), (6, "Thrice.\n")],
        f"{END_OF_TEXT}\na\n{END_OF_TEXT}\n": [(2, "a\n")],
        f"a{END_OF_TEXT}\nb{END_OF_TEXT}": [(1, "a"), (2, "b")],
        f"{END_OF_TEXT}a\n{END_OF_TEXT} b\n": [(1, "a\n"), (2, " b\n")],
        f"a\n \t{END_OF_TEXT} \t\nb": [(1, "a\n"), (3, "b")],
        f"a\n{END_OF_TEXT}\n\n \n{END_OF_TEXT}\n{END_OF_TEXT}\n\nb": [(1, "a\n"), (7, "\nb")],
        f"say {END_OF_TEXT} to end\n": [(1, f"say {END_OF_TEXT} to end\n")],
        "no separator at all": [(1, "no separator at all")],
        "": [(1, "")],
        " \n": [(1, " \n")],
        f" \n{END_OF_TEXT}\n": [(1, "")],
    }.items(),
)  # fmt: skip
def test_documents_end_where_a_line_begins_or_ends_with_end_of_text(text, documents, size):
    assert split(text, size=size) == documents


def test_any_other_line_separates_only_where_it_stands_alone():
    text = "a\n---\nb --- c\n--- d\ne ---\n  ---  \nf\n----\n---"
    assert split(text, "---") == [(1, "a\n"), (3, "b --- c\n--- d\ne ---\n"), (7, "f\n----\n")]
    assert split(STORIES, "") == [(1, STORIES)]


@given(st.lists(st.sampled_from(["a", " ", "\n", "<|", END_OF_TEXT, "|>"])), st.integers(1, 20))
def test_chunks_make_no_difference_and_nothing_is_lost(parts, size):
    text = "".join(parts)
    found = split(text, size=size)
    assert found == split(text)
    kept = "".join(document for _, document in found)
    assert "".join(kept.split()).replace(END_OF_TEXT, "") == "".join(text.split()).replace(END_OF_TEXT, "")


def test_lines_longer_than_what_is_held_back(monkeypatch):
    monkeypatch.setattr("handloom.data.chunking._LONGEST_LINE", 20)
    text = f"{'x' * 100}{END_OF_TEXT}\n{'y' * 100} {END_OF_TEXT} z\n{END_OF_TEXT}\n{'w ' * 60}"
    for size in (1, 5, 64, 1000):
        assert [len(document) for _, document in split(text, size=size)] == [100, 117, 120]


def test_a_document_can_be_read_at_any_time():
    documents = [pieces for _, pieces in split_documents(lambda: iter([STORIES]), END_OF_TEXT)]
    for _ in range(2):
        assert ["".join(each()) for each in documents] == ["Once.\nThe end.\n", "Twice.\n", "Thrice.\n"]
    late = split_documents(lambda: iter([STORIES]), END_OF_TEXT)
    begun = iter(next(late)[1]())
    assert next(begun)
    next(late)
    with pytest.raises(AssertionError):
        list(begun)


@pytest.mark.parametrize("wrong", [" ", "\n", "a\nb", "a\r"])
def test_what_is_no_line_is_refused(wrong):
    with pytest.raises(ConfigError, match="but must be one line that is not blank; empty for none"):
        open_corpus(["python-docs"], document_separator=wrong)


def test_a_story_corpus_is_many_documents(write, gpt2):
    write(**{"stories.txt": STORIES, "other.txt": "One alone.\n"})
    corpus = open_corpus(["."])
    plan = assign_splits(corpus, validation_fraction=0)
    assert [document.name for document in corpus.documents()] == [
        "other.txt", "stories.txt", "stories.txt:4", "stories.txt:6"
    ]  # fmt: skip
    assert not any(END_OF_TEXT in piece.text for piece in pieces(corpus, plan))
    data = prepare(["."], gpt2, validation_fraction=0)
    assert data.report.documents == 4
    assert data.report.separation == {
        "separator": END_OF_TEXT, "files": 1, "documents": 3, "first_file": "stories.txt"
    }  # fmt: skip
    assert data.sentences() == [(f"3 documents separated by {END_OF_TEXT} in stories.txt.", False)]
    assert data.train.tokens.tolist().count(gpt2.eos_token_id) == 4
    assert gpt2.eos_token_id not in gpt2.encode(STORIES)  # what is typed never becomes a special token


def test_without_a_separator_what_stands_in_the_text_is_said(write, gpt2):
    write(**{"stories.txt": STORIES, "posts.jsonl": json.dumps({"text": STORIES})})
    for separator, remedy in (("", True), ("---", True)):
        data = prepare(["stories.txt"], gpt2, document_separator=separator)
        ((sentence, asks_for_action),) = data.sentences()
        assert sentence.startswith(f"{END_OF_TEXT} stands 2 times, first in stories.txt, and is learned as ordinary")
        assert sentence.endswith(f"`document_separator='{END_OF_TEXT}'` separates documents at it.") == remedy
        assert asks_for_action == remedy
        assert data.report.separation["end_of_text"] == 2
    inside = prepare(["posts.jsonl"], gpt2)  # a record is a document
    assert inside.report.documents == 1
    assert inside.sentences() == [
        (
            f"{END_OF_TEXT} stands 2 times, first in posts.jsonl:1, and is learned as ordinary text there. In "
            "a text file a line break before or after it makes it separate documents.",
            False,
        )
    ]


def test_the_check_knows_the_same(write, gpt2):
    write(**{"stories.txt": STORIES + f"\x07 {END_OF_TEXT} is inline here\n"})
    for separator in (END_OF_TEXT, ""):
        seen = DataStats()
        settings = LintSettings(context_length=4, document_separator=separator, validation_fraction=0.4)
        found = list(lint(["stories.txt"], gpt2, settings, seen))
        data = prepare(["stories.txt"], gpt2, document_separator=separator, validation_fraction=0.4)
        assert seen.separation.to_dict() == data.report.separation == seen.to_dict()["separation"]
        assert seen.texts == data.report.documents == (3 if separator else 1)
        assert [each.place.short for each in found if each.kind == "control"] == ["stories.txt:7:1"]
