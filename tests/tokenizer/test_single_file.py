"""tokenizer.json: the same vocabulary in one file, if it is GPT-2's way of cutting text."""

from __future__ import annotations

import json

import pytest

from handloom.errors import DataError
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.base import END_OF_TEXT
from handloom.tokenizer.vocab_files import visible


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
    ("where", "key", "value", "named"),
    [
        ("model", "type", "Unigram", "the model is 'Unigram'; Handloom reads BPE"),
        ("model", "dropout", 0.1, "dropout is 0.1"),
        ("model", "byte_fallback", True, "byte_fallback is True"),
        ("model", "end_of_word_suffix", "</w>", "end_of_word_suffix is '</w>'"),
        ("model", "vocab", [], "the model is 'BPE'"),
        ("model", "speed", 3, "model: speed is 3; its effect is unknown to Handloom"),
        ("pre_tokenizer", "type", "Whitespace", "the pre_tokenizer is 'Whitespace'"),
        ("pre_tokenizer", "use_regex", False, "use_regex is false"),
        (None, "normalizer", {"type": "NFC"}, "the normalizer is 'NFC'"),
        (None, "pre_tokenizer", None, "the pre_tokenizer is None"),
        (None, "decoder", {"type": "WordPiece"}, "the decoder is 'WordPiece'"),
        (None, "post_processor", {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}]}, "it adds tokens"),
        (None, "model", 3, "the model is 3"),
        (None, "added_tokens", [{"id": 7, "content": "<x>", "shade": 1}], "added token: shade is 1"),
        (None, "added_tokens", [{"id": 7, "content": "<x>"}], "added token '<x>' has the id 7; .* it is 2"),
        (None, "added_tokens", [{"id": "b", "content": "<x>"}], "id of '<x>' is 'b'"),
        (None, "added_tokens", [3], "an added token is 3, which lacks a content"),
    ],
)
def test_another_way_of_cutting_text_is_refused_by_name(tmp_path, single, where, key, value, named):
    (single if where is None else single[where])[key] = value
    with pytest.raises(DataError, match=named):
        load_tokenizer(write(tmp_path, single))


@pytest.mark.parametrize(
    ("name", "said", "named"),
    [
        ("tokenizer_config.json", {"speed": 3, "pace": "x"}, "speed is 3, pace is 'x'; its effect is unknown"),
        ("tokenizer_config.json", {"tokenizer_class": "BertTokenizer"}, "tokenizer_class is 'BertTokenizer'"),
        ("tokenizer_config.json", {"add_bos_token": True}, "add_bos_token is True"),
        ("tokenizer_config.json", {"do_lower_case": True}, "do_lower_case is True"),
        ("tokenizer_config.json", {"eos_token": "</s>"}, "eos_token is '</s>', which .* lacks"),
        ("special_tokens_map.json", {"eos_token": "</s>"}, "eos_token is '</s>', which .* lacks"),
        ("special_tokens_map.json", {"soft_token": "x"}, "soft_token is 'x'"),
        ("generation_config.json", {"stop_strings": ["x"]}, "stop_strings is"),
        ("generation_config.json", {"eos_token_id": "x"}, "eos_token_id is 'x'; it is not an id"),
        ("vocab.json", {"a": 3}, "vocab.json: 'a' has the id 3; in tokenizer.json of the same folder, it is 64"),
    ],
)
def test_what_stands_around_it_is_read_to_the_last_key(tmp_path, single, name, said, named):
    write(tmp_path, single)
    (tmp_path / name).write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(DataError, match=named):
        load_tokenizer(tmp_path)


def test_keys_that_say_nothing_or_change_nothing_are_harmless(tmp_path, small, single):
    write(tmp_path, single)
    said = {"speed": None, "pace": [], "model_max_length": 5, "padding_side": "left", "errors": "replace"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    assert load_tokenizer(tmp_path).fingerprint == small.fingerprint


def test_a_tokenizer_of_a_class_that_needs_the_file_is_refused_without(tmp_path, small):
    small.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"needs a tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_the_end_may_stand_among_the_added_tokens(tmp_path, single):
    end = single["model"]["vocab"].pop(END_OF_TEXT)
    write(tmp_path, single)
    with pytest.raises(DataError, match=r"lacks <\|endoftext\|>, and no other file names another end"):
        load_tokenizer(tmp_path)
    single["added_tokens"] = [{"id": end, "content": END_OF_TEXT, "special": True}]
    assert load_tokenizer(write(tmp_path, single)).eos_token_id == end


def test_a_torn_file_is_refused(tmp_path, single):
    single["model"]["merges"][3] = ["a"]
    with pytest.raises(DataError, match="merge number 4"):
        load_tokenizer(write(tmp_path, single))
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not complete JSON"):
        load_tokenizer(tmp_path)
