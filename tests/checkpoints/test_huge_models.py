"""A model that no machine can hold is refused by its numbers, before anything of it is made."""

from __future__ import annotations

import json
import struct

import pytest
import torch

from handloom import load, runtime
from handloom.checkpoints import native, safetensors_io
from handloom.checkpoints.memory import require_memory
from handloom.errors import ConfigError, HandloomError, ModelError
from handloom.model.config import PRESETS, GPTConfig
from handloom.training import run
from handloom.training.config import TrainConfig

HUGE = 10**12


@pytest.fixture(autouse=True)
def _nothing_is_made(monkeypatch):
    def no(*_):
        raise AssertionError("a part of the model was made")

    monkeypatch.setattr(torch.nn.Linear, "__init__", no)
    monkeypatch.setattr(torch.nn.Embedding, "__init__", no)


@pytest.fixture
def theirs(tmp_path):
    def write(**keys):
        small = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 280}
        tmp_path.joinpath("config.json").write_text(
            json.dumps({"model_type": "gpt2", "eos_token_id": 279, "bos_token_id": 279, **small, **keys}),
            encoding="utf-8",
        )
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("n_layer", "1,000,000,000,000 layers"),
        ("n_embd", "embed_dim 1,000,000,000,000"),
        ("n_positions", "context_length 1,000,000,000,000"),
        ("vocab_size", "vocab_size 1,000,000,000,000"),
    ],
)
@pytest.mark.parametrize("size", [HUGE])
def test_sizes_of_a_folder_from_elsewhere_are_refused_by_name_and_number(theirs, key, shown, size):
    with pytest.raises(ModelError, match=shown) as refused:
        load(theirs(**{key: size}))
    assert "GB, and this machine has" in refused.value.problem


def test_sizes_beyond_all_integers_and_an_inner_width_too(theirs):
    with pytest.raises(HandloomError, match="describes a model of"):
        load(theirs(n_inner=2**62))
    for value in (2**63, 10**4000, 1e12, -1):
        with pytest.raises(HandloomError, match=r"n_layer|layers"):
            load(theirs(n_layer=value))


def test_a_run_is_refused_before_its_data_is_read(tmp_path):
    for changes in ({"layers": HUGE}, {"embed_dim": HUGE, "heads": 1}, {"context_length": HUGE}):
        with pytest.raises(ModelError, match="The run describes a model of"):
            run.begin(tmp_path / "new", TrainConfig(data=("no-such-file.txt",), **changes))


def test_a_checkpoint_of_our_own_is_held_to_the_same(tmp_path):
    with pytest.raises(ModelError, match="describes a model of"):
        native.Checkpoint(tmp_path, GPTConfig(layers=HUGE), {}).load_model()


def test_what_fits_is_not_refused(monkeypatch):
    for config in PRESETS.values():
        monkeypatch.setattr(runtime, "memory_bytes", lambda: 16 * 10**9)
        require_memory(config, "it", copies=1)
    monkeypatch.setattr(runtime, "memory_bytes", lambda: 497 * 10**6)  # GPT-2's weights are 498 MB
    with pytest.raises(ModelError, match=r"0\.5 GB, and this machine has 0\.5 GB"):
        require_memory(GPTConfig(), "it")


@pytest.mark.parametrize(
    ("width", "heads", "near"), [(HUGE + 39, HUGE // 2, 1), (768, 7, 6), (64, 10**15, 64), (97, 90, 97)]
)
def test_a_number_of_heads_that_fits_is_found_at_once(width, heads, near):
    with pytest.raises(ConfigError, match=f"for example {near}\\."):
        GPTConfig(embed_dim=width, heads=heads)


@pytest.mark.parametrize("length", [2**62, 2**64 - 1, 10**9, 10])
def test_a_safetensors_header_of_any_size_is_an_error_of_ours(tmp_path, length):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"[" * 2000)
    with pytest.raises(HandloomError, match=r"model\.safetensors cannot be read"):
        safetensors_io.read_tensors(tmp_path / "model.safetensors")


def test_a_safetensors_header_that_names_more_than_the_file_has_is_an_error_of_ours(tmp_path):
    for entry in (
        {"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 4 * HUGE]},
        {"dtype": "F32", "shape": [2**63], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
    ):
        header = json.dumps({"w": entry}).encode()
        (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
        with pytest.raises(HandloomError, match=r"w\.safetensors cannot be read"):
            safetensors_io.read_tensors(tmp_path / "w.safetensors")
    nested = b'{"w":' * 20_000 + b"1" + b"}" * 20_000
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(nested)) + nested)
    with pytest.raises(HandloomError, match=r"w\.safetensors cannot be read"):
        safetensors_io.read_tensors(tmp_path / "w.safetensors")
