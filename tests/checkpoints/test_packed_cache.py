"""Packed models on disk: mapped, the same to the bit, and never used when something is wrong."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch

import gpt2_folders
from handloom import runtime
from handloom.checkpoints import hf_folder, native, packed_cache
from handloom.errors import CheckpointError
from handloom.model.config import GPTConfig
from handloom.quantization.packed import pack_model
from handloom.quantization.precision import PACKED
from handloom.tokenizer.train import train_bpe

SHAPES = {
    "tied": gpt2_folders.CONFIG,
    "own head": dataclasses.replace(gpt2_folders.CONFIG, tie_embeddings=False, embed_dim=18, ffn_dim=51),
    "labels": dataclasses.replace(gpt2_folders.CONFIG, label_names=("a", "b")),
}
TOKENS = torch.arange(9)[None]


@pytest.fixture(autouse=True)
def _all_models_are_kept(monkeypatch):
    monkeypatch.setattr(packed_cache, "SMALLEST", 0)


@pytest.fixture
def source(tmp_path):
    model = gpt2_folders.random_model()
    native.save(tmp_path / "model", model, train_bpe(["aa aa"], 280), {})
    return native.open_checkpoint(tmp_path / "model")


def files():
    return sorted((runtime.cache_folder() / "packed").iterdir())


def load(source, precision="int8", notes=None):
    return packed_cache.load_packed(source, precision, (notes if notes is not None else []).append)


@pytest.fixture
def never_packed(monkeypatch):
    """From here on nothing may be packed: what is loaded comes from the cache."""

    def stop(*_):
        raise AssertionError("it was packed again")

    return lambda: monkeypatch.setattr(packed_cache, "pack_model", stop)


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_the_second_start_maps_what_the_first_has_packed(shape, precision, tmp_path, never_packed):
    model = gpt2_folders.random_model(SHAPES[shape])
    native.save(tmp_path / "model", model, train_bpe(["aa aa"], 280), {})
    source = native.open_checkpoint(tmp_path / "model")
    first = load(source, precision)
    never_packed()
    again = load(source, precision)
    wanted = pack_model(model, precision)
    assert again.config == wanted.config
    assert again.precision == first.precision == precision
    for one, other in zip(again.state_dict().items(), wanted.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert one[1].dtype == other[1].dtype
        assert torch.equal(one[1], other[1])
    hidden = wanted.hidden(TOKENS)
    logits = [one.next_logits(TOKENS[:, :1], one.new_cache()) for one in (again, wanted)]  # the native step
    assert torch.equal(*logits)
    assert torch.equal(again.unembed(again.hidden(TOKENS)), wanted.unembed(hidden))
    if model.classifier is not None:
        assert torch.equal(again.classify_logits(hidden), wanted.classify_logits(hidden))
    assert not any(tensor.is_meta or tensor.requires_grad for tensor in again.parameters())


def test_the_tensors_are_views_of_the_mapped_file(source):
    load(source)
    again = load(source)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no list of what is mapped")
    spans = [line.split()[0].split("-") for line in maps.read_text().splitlines() if line.endswith(files()[0].name)]
    assert again.get_parameter("embedding.position_embedding.weight").data_ptr() % 64 == 0
    for tensor in again.state_dict().values():
        assert any(int(start, 16) <= tensor.data_ptr() < int(end, 16) for start, end in spans)


@pytest.mark.parametrize("precision", PACKED)
def test_a_folder_of_others_is_packed_as_it_is_loaded(precision, tmp_path, never_packed):
    """Its pages are given back while it is read, and nothing of it changes."""
    folder = gpt2_folders.write(tmp_path / "theirs", gpt2_folders.random_model(GPTConfig(280, 16, 1, 2, 512)))
    source = hf_folder.open_folder(folder)
    wanted = pack_model(source.load_model(), precision).state_dict()
    load(source, precision)
    never_packed()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load(source, precision).state_dict().items())


def test_notes_about_the_weights_come_again(tmp_path):
    model = gpt2_folders.random_model()
    tensors = {f"module.{name}": tensor for name, tensor in gpt2_folders.theirs(model).items()}
    source = hf_folder.open_folder(gpt2_folders.write(tmp_path / "theirs", model, tensors))
    said: list[list[str]] = [[], []]
    for notes in said:
        load(source, notes=notes)
    (path,) = files()
    assert said[0] == [*said[1], f"Packed as int8, and kept for later starts: {path} (0 MB)."]
    assert any("'module.'" in note for note in said[0])


@pytest.mark.parametrize("harm", ["first bit", "middle", "last byte", "cut", "longer", "empty"])
def test_a_damaged_one_is_noted_and_made_again(source, harm):
    load(source)
    (path,) = files()
    content = path.read_bytes()
    where = {"first bit": 0, "middle": len(content) // 2, "last byte": len(content) - 1}
    if harm in where:
        changed = bytearray(content)
        changed[where[harm]] ^= 1
        path.write_bytes(changed)
    else:
        path.write_bytes({"cut": content[:-5000], "longer": content + b"\0" * 4096, "empty": b""}[harm])
    notes: list[str] = []
    load(source, notes=notes)
    assert ["is damaged" in note for note in notes] == [True, False]
    assert files() == [path]
    assert path.read_bytes() == content


def test_every_byte_counts_in_the_checksum_and_so_does_its_place(tmp_path):
    page = torch.randint(0, 256, (3 * 4096 + 7,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    swapped, pages, words = page.clone(), page.clone(), page.clone()
    swapped[5], swapped[5 + 4096] = page[5 + 4096], page[5]
    pages[:4096], pages[4096:8192] = page[4096:8192], page[:4096]
    words[:8], words[8:16] = page[8:16], page[:8]
    seen = set()
    for number, data in enumerate((page, swapped, pages, words, page[:-1])):
        (tmp_path / str(number)).write_bytes(data.numpy().tobytes())
        seen.add(packed_cache.checksum(tmp_path / str(number)))
    assert len(seen) == 5


def test_other_weights_are_packed_again(tmp_path):
    found = []
    for seed in (1, 2):
        folder = gpt2_folders.write(tmp_path / "theirs", gpt2_folders.random_model(seed=seed))
        found.append(load(hf_folder.open_folder(folder)).lm_head.weight)
    assert not torch.equal(*found)
    assert len(files()) == 2


def test_those_not_used_for_longest_go_first(source, monkeypatch):
    for age, precision in enumerate(("fp16", "int8")):
        load(source, precision)
        os.utime(next(path for path in files() if path.name.startswith(precision)), (1000 - age, 1000 - age))
    load(source, "int8")  # used now
    monkeypatch.setattr(packed_cache, "LIMIT", 2 * files()[1].stat().st_size)
    (runtime.cache_folder() / "packed" / ".unfinished-of-a-killed-process").touch()
    os.utime(runtime.cache_folder() / "packed" / ".unfinished-of-a-killed-process", (1000, 1000))
    load(source, "int4")
    assert [path.name[:4] for path in files()] == ["int4", "int8"]


def test_without_a_place_it_is_packed_each_time_with_a_note(source, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HANDLOOM_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        notes: list[str] = []
        assert load(source, notes=notes).precision == "int8"
        assert len(notes) == 1
        assert "cannot be kept in the cache" in notes[0]


def test_damaged_weights_are_refused_before_anything_is_kept(tmp_path):
    model = gpt2_folders.random_model()
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[0, 0] = torch.nan
    source = hf_folder.open_folder(gpt2_folders.write(tmp_path / "theirs", model))
    with pytest.raises(CheckpointError, match="not finite"):
        load(source)
    assert not (runtime.cache_folder() / "packed").exists()
