"""What a run learned from is read again, or it is said why not."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.data.tokenized import prepare, training_documents
from handloom.errors import DataError
from handloom.evaluation.text_metrics import words
from handloom.evaluation.texts import TrainingText, corpus_documents, training_pieces


@pytest.fixture
def folder(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(30):
        (texts / f"{number}.txt").write_text(f"Text {number} – with é and 漢.\n" * (number + 2), encoding="utf-8")
    return texts


@pytest.fixture
def training(folder, byte_tokenizer):
    """What a checkpoint of a run on these texts says of its training."""
    return {"settings": {"data": [str(folder)]}, "data": prepare(str(folder), byte_tokenizer).key}


def joined(pieces):
    texts = {}
    for piece in pieces:
        texts[piece.document] = texts.get(piece.document, "") + piece.text
    return texts


@pytest.mark.parametrize("cleared", [False, True])
def test_the_training_text_and_what_was_held_out_are_all_there_was(folder, training, byte_tokenizer, tmp_path, cleared):
    if cleared:
        shutil.rmtree(tmp_path / "cache")
    found = TrainingText(training, byte_tokenizer)
    mine = joined(found.pieces())
    held_out = {name: "".join(pieces) for name, pieces in found.held_out()}
    assert sorted(mine.values()) == sorted(training_documents(str(folder)))
    assert held_out
    assert not mine.keys() & held_out.keys()
    everything = {path.as_posix(): path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert mine | held_out == everything
    assert found.name == str(folder)


def test_documents_are_called_as_they_are_now(folder, training, byte_tokenizer, tmp_path):
    """A comparison names where a text was copied from; once that was the file under which it was first prepared."""
    moved = folder.rename(tmp_path / "moved")
    training["settings"]["data"] = [str(moved)]
    found = TrainingText(training, byte_tokenizer)
    texts = joined(found.pieces())
    names = [*texts, *(name for name, _ in found.held_out())]
    assert sorted(names) == sorted(path.as_posix() for path in moved.iterdir())
    shutil.rmtree(moved)  # what is in the cache is still known, though only under its old names
    again = joined(TrainingText(training, byte_tokenizer).pieces())
    assert sorted(again.values()) == sorted(texts.values())


def test_a_text_that_has_changed_since_is_refused(folder, training, byte_tokenizer, tmp_path):
    shutil.rmtree(tmp_path / "cache")
    (folder / "3.txt").write_text("Another text.\n", encoding="utf-8")
    with pytest.raises(DataError, match="has changed since"):
        TrainingText(training, byte_tokenizer)


def test_standard_input_is_read_from_the_cache_or_not_at_all(training, byte_tokenizer, tmp_path):
    training["settings"]["data"] = ["-"]
    assert joined(TrainingText(training, byte_tokenizer).pieces())
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match="standard input"):
        TrainingText(training, byte_tokenizer)


@pytest.mark.parametrize("training", [{}, {"settings": None}, {"settings": {"data": []}}])
def test_a_run_that_does_not_say_is_believed(training, byte_tokenizer):
    with pytest.raises(DataError, match="does not record what it was trained on"):
        TrainingText(training, byte_tokenizer)


def test_of_examples_every_text_is_training_text(tmp_path, byte_tokenizer):
    path = tmp_path / "chat.jsonl"
    record = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The weaver."}]}
    path.write_text(json.dumps(record) + "\n\n", encoding="utf-8")
    training = {"settings": {"data": [str(path)], "task": "sft"}, "data": "x"}
    found = TrainingText(training, byte_tokenizer)
    assert [piece.text for piece in found.pieces()] == ["user", "Who?", "assistant", "The weaver."]
    assert all(piece.ends for piece in found.pieces())
    with pytest.raises(DataError, match="examples, not text"):
        found.held_out()
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        list(found.pieces())
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        TrainingText(training, byte_tokenizer)


@given(st.lists(st.text("ab \n"), max_size=6))
def test_pieces_are_the_document_and_no_word_is_cut(chunks):
    made = list(training_pieces([("d", chunks)]))
    text = "".join(chunks)
    assert "".join(piece.text for piece in made) == text
    assert [piece.ends for piece in made] == [False] * (len(made) - 1) + [True]
    assert [word for piece in made for word in words(piece.text)] == words(text)


def test_a_document_of_many_tokens_is_decoded_in_parts(folder, training, byte_tokenizer, monkeypatch):
    whole = joined(TrainingText(training, byte_tokenizer).pieces())
    monkeypatch.setattr("handloom.data.windows._CHUNK", 7)
    parts = list(TrainingText(training, byte_tokenizer).pieces())
    assert joined(parts) == whole
    assert len(parts) > 2 * len(whole)


def test_any_files_may_stand_for_the_training_text(folder):
    found = joined(training_pieces(corpus_documents([str(folder)])))
    assert found == {path.as_posix(): path.read_text(encoding="utf-8") for path in folder.iterdir()}
