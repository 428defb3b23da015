"""A checkpoint is whole or absent, its every byte is checked, and reading it runs nobody's code."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from handloom import storage
from handloom.checkpoints import native, safetensors_io
from handloom.errors import CheckpointError, ConfigError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.train import train_bpe

CONFIG = GPTConfig(vocab_size=260, context_length=8, layers=2, heads=2, embed_dim=8)


@pytest.fixture
def saved(tmp_path):
    tokenizer = train_bpe(["the cat and the hat"], 260)
    model = GPT(CONFIG, seed=4)
    folder = native.step_folder(tmp_path / "run", 3)
    native.save(folder, model, tokenizer, {"progress": {"step": 3}}, {"x/momentum": torch.arange(3.0)})
    return folder, model, tokenizer


def test_what_was_saved_comes_back_to_the_bit(saved):
    folder, model, tokenizer = saved
    checkpoint = native.open_checkpoint(folder)
    loaded = checkpoint.load_model()
    assert loaded.config == CONFIG
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert checkpoint.load_tokenizer().fingerprint == tokenizer.fingerprint
    assert torch.equal(checkpoint.load_optimizer()["x/momentum"], torch.arange(3.0))
    tokens = torch.arange(8)[None]
    assert torch.equal(loaded(tokens), model.eval()(tokens))
    assert not any(p.is_meta for p in loaded.parameters())


def test_a_tied_head_is_stored_once_and_tied_again(saved):
    folder, _, _ = saved
    assert "lm_head.weight" not in safetensors_io.read_tensors(folder / "model.safetensors")
    loaded = native.open_checkpoint(folder).load_model()
    assert loaded.lm_head.weight is loaded.embedding.token_embedding.weight


def test_an_untied_head_comes_back(tmp_path):
    config = GPTConfig(**{**CONFIG.to_dict(), "tie_embeddings": False})
    model = GPT(config)
    native.save(tmp_path / "c", model, train_bpe(["aa aa"], 258), {})
    assert torch.equal(native.open_checkpoint(tmp_path / "c").load_model().lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "config.json", "training.json", "tokenizer/vocab.json"]
)
@pytest.mark.parametrize("harm", ["flip", "cut", "grow", "remove"])
def test_harm_to_any_file_is_seen_and_named(saved, name, harm):
    folder, _, _ = saved
    path = folder / name
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "grow":
        path.write_bytes(content + b"x")
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=path.name):
        native.open_checkpoint(folder)


def test_a_folder_without_a_manifest_is_torn(saved):
    folder, _, _ = saved
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        native.open_checkpoint(folder)


def test_a_manifest_that_says_nothing_of_a_file_is_damaged(saved):
    folder, _, _ = saved
    path = folder / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"sha256"', '"sha255"', 1), encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not list"):
        native.open_checkpoint(folder)


def rewrite_manifest(folder):
    (folder / "manifest.json").unlink()
    found = [p for p in folder.rglob("*") if p.is_file()]
    storage.write_json(folder / "manifest.json", {p.relative_to(folder).as_posix(): storage.describe(p) for p in found})


def test_another_tokenizer_is_refused(saved):
    folder, _, _ = saved
    train_bpe(["completely different words"], 260).save(folder / "tokenizer")
    rewrite_manifest(folder)
    with pytest.raises(CheckpointError, match="is not the one that its model was trained with"):
        native.open_checkpoint(folder).load_tokenizer()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "not of a Handloom checkpoint"),
        ({"version": 99}, "format version 99"),
        ({"model": {**CONFIG.to_dict(), "widht": 8}}, "'widht'"),
    ],
)
def test_a_foreign_configuration_is_refused(saved, change, words):
    folder, _, _ = saved
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    storage.write_json(folder / "config.json", {**described, **change})
    rewrite_manifest(folder)
    with pytest.raises((CheckpointError, ConfigError), match=words):
        native.open_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 3}, r"blocks\.2.*is missing"),
        ({"layers": 1}, "does not have"),
        ({"context_length": 9}, r"\(8, 8\).*\(9, 8\)"),
    ],
)
def test_weights_of_another_shape_are_refused(saved, change, words):
    folder, _, _ = saved
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    storage.write_json(folder / "config.json", {**described, "model": {**described["model"], **change}})
    rewrite_manifest(folder)
    with pytest.raises(CheckpointError, match=words):
        native.open_checkpoint(folder).load_model()


def test_pickled_weights_are_never_opened(saved):
    folder, _, _ = saved

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(folder / "boom"),)

    torch.save({"weights": Bomb()}, folder / "model.safetensors")
    rewrite_manifest(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        native.open_checkpoint(folder).load_model()
    assert not (folder / "boom").exists()


def test_an_interrupted_save_leaves_the_old_and_no_rubbish(saved, monkeypatch):
    folder, model, tokenizer = saved
    before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    monkeypatch.setattr(native, "write_tensors", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        native.save(folder, model, tokenizer, {})
    assert {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_space_is_asked_for_before_writing(saved, monkeypatch):
    folder, model, tokenizer = saved
    usage = os.statvfs(folder)
    monkeypatch.setattr(
        storage.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000, "total": usage.f_blocks})()
    )
    with pytest.raises(CheckpointError, match=r"No space to write .* are needed and 0\.0 MB are free"):
        native.save(folder.parent / "step-00000004", model, tokenizer, {})
    assert native.steps(folder.parent.parent) == [3]


def test_the_newest_whole_checkpoint_is_found(saved):
    folder, model, tokenizer = saved
    run = folder.parent.parent
    for step in (5, 7):
        native.save(native.step_folder(run, step), model, tokenizer, {})
    (native.step_folder(run, 7) / "manifest.json").unlink()
    (run / "checkpoints" / ".unfinished-step-9").mkdir()
    checkpoint, passed_over = native.latest(run)
    assert checkpoint.folder.name == "step-00000005"
    assert len(passed_over) == 1
    native.prune(run, keep=1, best=3)
    assert native.steps(run) == [3, 7]


def test_loading_a_model_imports_no_compiler(saved):
    """Announcing a model without weights once made PyTorch import its compiler, which took a second."""
    folder, _, _ = saved
    script = "import sys, handloom; handloom.load(sys.argv[1]); assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
