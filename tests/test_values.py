"""Values from callers and files: numpy's numbers count as Python's, and no JSON ends the stack."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handloom import values
from handloom.errors import HandloomError
from handloom.evaluation.benchmarks import detect
from handloom.inference.generation_config import GenerationConfig
from handloom.model.config import GPTConfig
from handloom.storage import read_json
from handloom.tokenizer import load_tokenizer
from handloom.training.config import TrainConfig
from handloom.values import DEEPEST, parse_json, plain

DEEP = 200_000
OWN = {"values.py", "gguf_export.py"}
"""Where JSON is read that we have written a moment ago, and the one reader of all other."""


def nested(depth, inner="", opening="[", closing="]"):
    return opening * depth + inner + closing * depth


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_that_is_not_deep_is_read_as_python_reads_it(value):
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == value


@pytest.mark.parametrize(("opening", "inner", "closing"), [("[", "", "]"), ('{"a":', "1", "}"), ('[{"a":', "1", "}]")])
def test_the_deepest_json_is_read_and_the_next_is_an_error(opening, inner, closing):
    levels = opening.count("[") + opening.count("{")
    parse_json(nested(DEEPEST // levels, inner, opening, closing))
    for depth in (DEEPEST // levels + 1, 990, 5_000, DEEP):
        for text in (nested(depth, inner, opening, closing), nested(depth, inner, opening, closing).encode()):
            with pytest.raises(ValueError, match="more than 200 deep"):
                parse_json(text)


def test_a_name_with_two_values_is_an_error_and_one_that_is_only_repeated_is_not():
    for text in ('{"a": 1, "b": 0, "a": 2}', '[{"b": {"a": [1], "a": [2]}}]', '{"a": null, "a": 1}'):
        with pytest.raises(ValueError, match='the name "a" stands twice in an object, with different values'):
            parse_json(text)
    assert parse_json('{"a": [1], "b": 0, "a": [1]}') == {"a": [1], "b": 0}


def test_many_shallow_lists_and_brackets_in_texts_are_no_depth():
    shallow = [["[" * DEEPEST]] * 5 * DEEPEST
    assert parse_json(json.dumps(shallow)) == shallow


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "vocab.json", "adapter_config.json", "training.json"]
)
def test_every_reader_of_json_refuses_what_is_too_deep(tmp_path, name):
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (tmp_path / name).write_text(nested(DEEP), encoding="utf-8")
    reader = load_tokenizer if name in ("tokenizer.json", "vocab.json") else lambda folder: read_json(folder / name)
    with pytest.raises(HandloomError, match="more than 200 deep"):
        reader(tmp_path)


def test_a_record_of_data_that_is_too_deep_is_named_by_its_line(tmp_path):
    (tmp_path / "deep.jsonl").write_text(nested(DEEP) + "\n", encoding="utf-8")
    with pytest.raises(HandloomError, match=r"deep.jsonl, line 1: not JSON \(lists and objects lie more than 200 deep"):
        detect(tmp_path / "deep.jsonl")


def test_nothing_else_parses_json():
    found = [
        f"{path.name}:{node.lineno}"
        for path in Path(values.__file__).parent.rglob("*.py")
        if path.name not in OWN
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("loads", "load") and ast.unparse(node.value) == "json"
    ]
    assert found == []


# Numbers of numpy


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32, torch.tensor, int])
def test_whole_numbers_of_numpy_and_torch_are_whole_numbers(kind):
    request = GenerationConfig.of(max_new_tokens=kind(5), top_k=kind(3), seed=kind(7), logit_bias={kind(4): kind(2)})
    assert request == GenerationConfig.of(max_new_tokens=5, top_k=3, seed=7, logit_bias={4: 2})
    assert type(request.max_new_tokens) is type(request.logit_bias[0][0]) is int
    shape = {"layers": kind(2), "heads": kind(2), "embed_dim": kind(8)}
    assert GPTConfig(**shape) == GPTConfig(layers=2, heads=2, embed_dim=8)
    assert (
        TrainConfig(**shape, steps=kind(9)).to_toml() == TrainConfig(layers=2, heads=2, embed_dim=8, steps=9).to_toml()
    )


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, torch.tensor, float])
def test_other_numbers_of_numpy_are_numbers(kind):
    request = GenerationConfig.of(temperature=kind(0.5), top_p=kind(0.25))
    assert request == GenerationConfig.of(temperature=0.5, top_p=0.25)
    assert type(request.temperature) is float
    assert TrainConfig(dropout=kind(0.5)).to_toml() == TrainConfig(dropout=0.5).to_toml()


def test_truth_values_and_arrays_of_numpy_are_python_s():
    request = GenerationConfig.of(echo=np.bool_(True), bad_words=[np.array([1, 2]), "x"])
    assert request == GenerationConfig.of(echo=True, bad_words=[[1, 2], "x"])
    with pytest.raises(HandloomError, match="max_new_tokens is True"):
        GenerationConfig.of(max_new_tokens=np.bool_(True))
    with pytest.raises(HandloomError, match=r"top_k is 3\.0"):
        GenerationConfig.of(top_k=np.float32(3))
    assert plain((np.int64(1), [np.float32(0.5)])) == (1, [0.5])
