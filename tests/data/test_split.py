"""The split: by the text alone, stable when files come, without duplicates, and never empty."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.data.corpus import Corpus, Document, open_corpus
from handloom.data.split import DUPLICATE, EMPTY, TRAIN, VALIDATION, assign_splits, pieces
from handloom.errors import ConfigError, DataError

MANY = {f"{number}": f"Document number {number}.\n" for number in range(300)}


def corpus_of(texts):
    documents = [Document(name, lambda text=text: [text] if text else []) for name, text in texts.items()]
    return Corpus(["memory"], [lambda: documents])


def sides(texts, **settings):
    corpus = corpus_of(texts)
    return dict(zip(texts, assign_splits(corpus, **settings).assignments, strict=True))


def test_about_the_fraction_asked_for_is_held_out():
    for fraction in (0.1, 0.5):
        held_out = list(sides(MANY, validation_fraction=fraction).values()).count(VALIDATION)
        assert 0.7 * fraction < held_out / len(MANY) < 1.3 * fraction


def test_adding_and_reordering_documents_moves_none_across():
    before = sides(dict(list(MANY.items())[100:]), split="documents")
    after = sides(MANY, split="documents")
    assert {name: after[name] for name in before} == before
    assert sides(dict(reversed(MANY.items()))) == after


def test_a_larger_fraction_only_adds_to_validation():
    small, large = (sides(MANY, validation_fraction=f, split="documents") for f in (0.1, 0.3))
    assert {n for n, side in small.items() if side == VALIDATION} < {
        n for n, side in large.items() if side == VALIDATION
    }


def test_exact_duplicates_and_empty_documents_are_left_out():
    texts = {**MANY, "copy": MANY["7"], "nothing": "", "again": MANY["7"], "almost": MANY["7"] + " "}
    fates = sides(texts)
    assert [fates[name] for name in ("copy", "again", "nothing")] == [DUPLICATE, DUPLICATE, EMPTY]
    assert fates["almost"] in (TRAIN, VALIDATION)
    corpus = corpus_of(texts)
    assert (
        "".join(piece.text for piece in pieces(corpus, assign_splits(corpus)))
        == "".join(MANY.values()) + MANY["7"] + " "
    )


def test_every_text_lands_on_one_side_whole(write):
    write(**{f"{name}.txt": text for name, text in MANY.items()})
    corpus = open_corpus(["."])
    found = list(pieces(corpus, assign_splits(corpus)))
    assert {piece.name: piece.text for piece in found} == {f"{n}.txt": text for n, text in MANY.items()}
    assert all(piece.ends for piece in found)


@given(st.text(min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_one_document_is_split_at_its_tail(text, fraction):
    corpus = corpus_of({"input.txt": text})
    plan = assign_splits(corpus, validation_fraction=fraction)
    assert plan.policy == "tail"
    parts = list(pieces(corpus, plan))
    assert "".join(part.text for part in parts) == text
    assert [part.split for part in parts] in ([TRAIN], [TRAIN, VALIDATION])
    assert all(part.ends for part in parts)


def test_the_tail_is_about_the_fraction():
    text = "".join(f"Line {n} of a play.\n" for n in range(10_000))
    corpus = corpus_of({"input.txt": text})
    parts = list(pieces(corpus, assign_splits(corpus, validation_fraction=0.1)))
    tail = "".join(part.text for part in parts if part.split == VALIDATION)
    assert 0.0999 < len(tail) / len(text) < 0.1001
    assert tail.startswith("Line 9")


def test_auto_wants_a_fair_share_on_both_sides():
    hundredfold = {**MANY, "novel": "A very long novel. " * 30_000}
    assert assign_splits(corpus_of(MANY)).policy == "documents"
    assert assign_splits(corpus_of(hundredfold)).policy == "tail"  # 300 short documents beside one of 99% of the bytes
    assert assign_splits(corpus_of(hundredfold), split="documents").policy == "documents"
    assert assign_splits(corpus_of(MANY), split="tail").policy == "tail"
    assert assign_splits(corpus_of(MANY), validation_fraction=0).policy == "none"


def test_errors():
    with pytest.raises(DataError, match="Split by documents leaves validation without any: there are only 1") as caught:
        assign_splits(corpus_of({"a": "x"}), split="documents", validation_fraction=1e-9)
    assert "`split=tail`" in caught.value.remedy
    with pytest.raises(DataError, match="every document is empty"):
        assign_splits(corpus_of({"a": "", "b": ""}))
    with pytest.raises(DataError, match="no document could be read"):
        assign_splits(corpus_of({}))
    with pytest.raises(ConfigError, match="validation_fraction is 1"):
        assign_splits(corpus_of(MANY), validation_fraction=1)
    with pytest.raises(ConfigError, match='split is "tails"'):
        assign_splits(corpus_of(MANY), split="tails")


@pytest.mark.parametrize("change", ["other text", "one more", "one less"])
def test_a_corpus_that_changes_meanwhile_is_noticed(write, change):
    write(**{"a.jsonl": "\n".join(json.dumps({"text": f"line {n}"}) for n in range(9))})
    corpus = open_corpus(["a.jsonl"])
    plan = assign_splits(corpus)
    lines = Path("a.jsonl").read_text(encoding="utf-8").splitlines()
    changed = {
        "other text": [*lines[:-1], '{"text": "line 9"}'],
        "one more": [*lines, lines[0]],
        "one less": lines[:-1],
    }
    write(**{"a.jsonl": "\n".join(changed[change])})
    with pytest.raises(DataError, match=r"The text of a\.jsonl changed while it was being read"):
        list(pieces(corpus, plan))
