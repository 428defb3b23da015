"""handloom.load: what names a model, and what is said when nothing whole is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

import handloom
from handloom.checkpoints import native
from handloom.errors import CheckpointError, HandloomError


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of the run that a test may spoil."""
    return shutil.copytree(trained_run, tmp_path / "run")


def newest(run):
    return native.step_folder(run, native.steps(run)[-1])


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_and_its_newest_checkpoint_are_the_same_model(trained_run):
    lm = handloom.load(trained_run)
    same = handloom.load(str(newest(trained_run)))
    assert lm.origin == same.origin == newest(trained_run)
    text = lm.generate("The", max_new_tokens=8)
    assert text
    assert same.generate("The", max_new_tokens=8) == text
    assert lm.config.context_length == 16
    assert lm.tokenizer.decode(lm.tokenizer.encode("fox")) == "fox"
    assert not lm.model.training


def test_an_older_checkpoint_can_be_named(trained_run):
    steps = native.steps(trained_run)
    assert len(steps) == 2
    older = handloom.load(native.step_folder(trained_run, steps[0]))
    assert not older.model.lm_head.weight.equal(handloom.load(trained_run).model.lm_head.weight)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_torn_newest_checkpoint_is_told_and_passed_over(run, harm):
    torn = newest(run)
    weights = torn / "model.safetensors"
    if harm == "flip":
        flip(weights)
    elif harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        weights.unlink()
    notes = []
    lm = handloom.load(run, notes.append)
    assert lm.origin == native.step_folder(run, native.steps(run)[0])
    assert len(notes) == 1
    assert torn.name in notes[0]
    assert lm.origin.name in notes[0]
    with pytest.warns(UserWarning, match=torn.name):
        handloom.load(run)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        handloom.load(torn)


def test_a_run_without_a_whole_checkpoint_says_why(run):
    for step in native.steps(run):
        flip(native.step_folder(run, step) / "model.safetensors")
    with pytest.raises(CheckpointError, match="has no complete checkpoint"):
        handloom.load(run)


def test_a_tokenizer_of_another_model_is_refused(run):
    folder = newest(run)
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    training["tokenizer"] = "0" * 64
    (folder / "training.json").write_text(json.dumps(training), encoding="utf-8")
    from handloom import storage

    manifest = storage.read_json(folder / storage.MANIFEST)
    manifest["training.json"] = storage.describe(folder / "training.json")
    storage.write_json(folder / storage.MANIFEST, manifest)
    with pytest.raises(CheckpointError, match="is not the one that its model was trained with"):
        handloom.load(folder)


def test_what_is_no_model_is_told_from_what_is_missing(tmp_path, trained_run):
    with pytest.raises(CheckpointError, match="There is no model at"):
        handloom.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="neither a run folder"):
        handloom.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.toml is a file, .* Name its folder"):
        handloom.load(trained_run / "config.toml")
    with pytest.raises(CheckpointError, match="cannot be read"):
        handloom.load("n" * 5000)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="a model of type 'bert'"):
        handloom.load(foreign)
    (foreign / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(HandloomError, match="cannot be read"):
        handloom.load(foreign)


def test_importing_the_package_is_light():
    script = (
        "import sys, handloom; handloom.HandloomError; "
        "print(sorted({'torch', 'numpy', 'tiktoken', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8")
    assert result.stdout == "[]\n", result.stderr


def test_an_adapter_whose_name_ends_like_a_share_goes_first(tmp_path, monkeypatch):
    from handloom.loading import named_adapters

    monkeypatch.chdir(tmp_path)
    for name in ("lr", "lr:0.5", "~odd:2"):
        (tmp_path / name).mkdir()
    assert named_adapters("lr:0.5") == {"lr_0_5": ("lr:0.5", 1.0)}
    assert named_adapters(tmp_path / "lr:0.5") == {"lr_0_5": (str(tmp_path / "lr:0.5"), 1.0)}
    assert named_adapters("lr:0.5:2") == {"lr_0_5": ("lr:0.5", 2.0)}
    assert named_adapters(["lr:0.25", "~odd:2"]) == {"lr": ("lr", 0.25), "_odd_2": ("~odd:2", 1.0)}
    (tmp_path / "models/owner--name:2").mkdir(parents=True)
    assert named_adapters("owner/name:2") == {"name_2": ("owner/name:2", 1.0)}  # one that was pulled
    for name in ("HOME", "HANDLOOM_MODELS"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # this user has no entry
    assert named_adapters("lr:0.25") == {"lr": ("lr", 0.25)}
