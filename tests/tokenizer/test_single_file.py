"""tokenizer.json: the same vocabulary in one file, if it is GPT-2's way of cutting text."""

from __future__ import annotations

import json

import pytest

from handloom.errors import DataError
from handloom.tokenizer.base import END_OF_TEXT, load_tokenizer
from handloom.tokenizer.files import visible


@pytest.fixture
def single(small):
    """What a folder's tokenizer.json says."""
    words = [visible(token) for token in small.tokens[:-1]]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {word: token for token, word in enumerate([*words, END_OF_TEXT])},
            "merges": [[words[left], words[right]] for left, right in small.merges],
        },
    }


def write(folder, content):
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("pairs", [True, False])
def test_it_is_the_same_tokenizer(tmp_path, small, single, pairs):
    if not pairs:  # as older versions spell them
        single["model"]["merges"] = [" ".join(merge) for merge in single["model"]["merges"]]
    assert load_tokenizer(write(tmp_path, single)).fingerprint == small.fingerprint


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("model", "type", "Unigram"),
        ("model", "unk_token", "[UNK]"),
        ("model", "dropout", 0.1),
        ("model", "merges", None),
        ("model", "vocab", []),
        ("pre_tokenizer", "type", "Whitespace"),
        ("pre_tokenizer", "add_prefix_space", True),
        ("pre_tokenizer", "use_regex", False),
        (None, "normalizer", {"type": "NFC"}),
        (None, "pre_tokenizer", None),
        (None, "model", 3),
    ],
)
def test_another_way_of_cutting_text_is_refused(tmp_path, single, where, key, value):
    (single if where is None else single[where])[key] = value
    with pytest.raises(DataError, match="no byte-level BPE that cuts text as GPT-2's does"):
        load_tokenizer(write(tmp_path, single))


def test_a_torn_file_is_refused(tmp_path, single):
    single["model"]["merges"][3] = ["a"]
    with pytest.raises(DataError, match="merge number 4"):
        load_tokenizer(write(tmp_path, single))
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not complete JSON"):
        load_tokenizer(tmp_path)
