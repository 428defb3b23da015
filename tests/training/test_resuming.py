"""A run goes on: from any of its checkpoints, wherever its text is now, with the settings that may change."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from handloom.checkpoints import native
from handloom.errors import CheckpointError, ConfigError
from handloom.loading import load
from handloom.training import run
from handloom.training.config import FinetuneConfig
from handloom.training.metrics_log import read_metrics
from handloom.training.progress import Reporter


class Told(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text):
        self.notes.append(text)

    def warning(self, text):
        self.warnings.append(text)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, corpus_folder):
    """A run of 8 steps with a checkpoint at 0, 2, ... 8. Not to be changed: `copied` has a copy."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDLOOM_CACHE", str(folder / "cache"))
        shutil.copytree(corpus_folder, folder / "texts")
        patch.chdir(folder)
        run.begin("runs/a", settings())
    return folder


def settings(**changes):
    from handloom.training.config import TrainConfig

    chosen = {
        "data": ("texts",), "vocab_size": 300, "layers": 1, "heads": 2, "embed_dim": 16, "context_length": 16,
        "steps": 8,
        "batch_size": 4, "precision": "fp32", "threads": 1, "sample_every": 0, "eval_every": 4,
        "checkpoint_every": 2, "keep_checkpoints": 9, "dropout": 0.1,
    }  # fmt: skip
    return TrainConfig(**{**chosen, **changes})


@pytest.fixture
def copied(straight, tmp_path, monkeypatch):
    """A folder with texts/ and runs/a, in which the test is."""
    shutil.copytree(straight / "texts", tmp_path / "here/texts")
    shutil.copytree(straight / "runs", tmp_path / "here/runs")
    monkeypatch.chdir(tmp_path / "here")
    about = json.loads(Path("runs/a/data.json").read_text())
    Path("runs/a/data.json").write_text(json.dumps({**about, "folder": str(tmp_path / "here")}))
    return Path("runs/a")


def weights(folder):
    checkpoint, _ = native.latest(Path(folder))
    return {n: (checkpoint.folder / n).read_bytes() for n in ("model.safetensors", "optimizer.safetensors")}


def edit(folder, old, new):
    file = Path(folder, "config.toml")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# From which checkpoint


def test_a_checkpoint_goes_on_in_a_new_run_to_the_same_bits(copied):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    run.resume(native.step_folder(copied, 4), into=Path("runs/b"))
    assert weights("runs/b") == weights(copied)
    assert native.steps(Path("runs/b")) == [4, 6, 8]
    without = [{k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(Path("runs/b"))]
    assert without == [{k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(copied)]
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before
    run.resume("runs/b", changes={"steps": 9})  # it is a run like any other


def test_a_run_goes_on_in_a_new_folder_too_and_keeps_its_best_checkpoint(copied):
    best = native.latest(copied)[0].training["progress"]["best_step"]
    run.resume(copied, into=Path("runs/b"), changes={"steps": 9})
    assert native.steps(Path("runs/b")) == sorted({best, 8, 9})
    with pytest.raises(ConfigError, match=r"already holds a run\. Name another folder with `run`\.$"):
        run.resume(copied, into=Path("runs/b"))


def test_an_earlier_checkpoint_goes_on_in_place_only_with_a_flag_and_nothing_is_destroyed(copied):
    first, records = weights(copied), (copied / "metrics.jsonl").read_bytes()
    later = {step: (native.step_folder(copied, step) / "model.safetensors").read_bytes() for step in (6, 8)}
    with pytest.raises(ConfigError, match=r"later checkpoints than step 4: 6, 8\..*`drop_later=true`"):
        run.resume(native.step_folder(copied, 4))
    assert native.steps(copied) == [0, 2, 4, 6, 8]
    told = Told()
    run.resume(native.step_folder(copied, 4), told, drop_later=True, stop_after=5)
    aside = copied / "dropped/after-step-4"
    assert any(str(aside) in note and "2 later checkpoints" in note for note in told.notes)
    assert native.steps(copied) == [0, 2, 4, 5]
    for step, content in later.items():
        assert (native.step_folder(aside, step) / "model.safetensors").read_bytes() == content
    assert (aside / "metrics.jsonl").read_bytes() == records
    run.resume(copied)
    assert weights(copied) == first
    run.resume(native.step_folder(copied, 4), drop_later=True, stop_after=4)
    assert (copied / "dropped/after-step-4-2").is_dir()


def test_the_last_checkpoint_by_name_is_the_run(copied):
    run.resume(native.step_folder(copied, 8), changes={"steps": 9})
    assert native.steps(copied)[-1] == 9


def test_what_has_no_meaning_about_checkpoints_is_refused(copied, tmp_path):
    with pytest.raises(ConfigError, match="`drop_later` needs the checkpoint"):
        run.resume(copied, drop_later=True)
    shutil.copytree(native.step_folder(copied, 4), tmp_path / "alone")
    with pytest.raises(ConfigError, match=r"outside of a run.*new run in `run`"):
        run.resume(tmp_path / "alone")
    run.resume(tmp_path / "alone", into=tmp_path / "new")
    assert weights(tmp_path / "new") == weights(copied)


def test_checkpoints_on_another_disk(copied, tmp_path):
    """A folder of checkpoints, or a run, that is a link: trained into, gone on with, pruned and written from."""
    for linked, elsewhere in ((Path("runs/c/checkpoints"), tmp_path / "disk"), (Path("runs/d"), tmp_path / "e")):
        elsewhere.mkdir()
        linked.parent.mkdir(exist_ok=True)
        linked.symlink_to(elsewhere)
        folder = Path("runs/c") if "c" in linked.parts else linked
        run.begin(folder, settings(keep_checkpoints=1), stop_after=5)
        run.resume(folder)
        assert linked.is_symlink()
        assert weights(folder) == weights(copied)
        best = native.latest(folder)[0].training["progress"]["best_step"]
        assert native.steps(folder) == sorted({best, 8})
        assert load(folder).generate("the", max_new_tokens=2, seed=0)
        run.resume(native.step_folder(folder, 8), changes={"steps": 9})


# Where the text is


def test_text_that_was_moved_is_known_by_its_hash(copied, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    Path("texts").rename("moved")
    with pytest.raises(CheckpointError, match=r"texts, which cannot be read again.*`data`"):
        run.resume(copied, changes={"steps": 9})
    shutil.copytree("moved", "other")
    Path("other/new.txt").write_text("something else")
    with pytest.raises(CheckpointError, match=r"data of run .* \(other\) has changed"):
        run.resume(copied, changes={"steps": 9, "data": ("other",)})
    run.resume(copied, changes={"steps": 9, "data": ("moved",)}, stop_after=8)
    monkeypatch.chdir(tmp_path)
    run.resume(Path("here") / copied)  # which remembers the place
    monkeypatch.chdir("here")
    assert native.steps(copied)[-1] == 9


def test_text_that_is_gone_still_has_its_tokens_in_the_cache(copied):
    run.begin("runs/b", settings(), stop_after=5)
    shutil.rmtree("texts")
    told = Told()
    run.resume("runs/b", told)
    assert any("texts cannot be read again" in note for note in told.notes)
    assert weights("runs/b") == weights(copied)


@pytest.mark.parametrize("named", ["texts", "texts/*.txt"])
def test_text_is_found_from_another_folder(copied, tmp_path, monkeypatch, named):
    folder = tmp_path / "far/run"
    run.begin(folder, settings(data=(named,)), stop_after=5)
    monkeypatch.setenv("HANDLOOM_CACHE", str(tmp_path / "cleared"))
    monkeypatch.chdir(tmp_path / "far")
    run.resume("run")
    assert weights(folder) == weights(tmp_path / "here/runs/a")
    monkeypatch.chdir(tmp_path)
    shutil.move(tmp_path / "here", tmp_path / "renamed")  # a project moved as a whole
    run.resume("renamed/runs/a", changes={"steps": 9})


def test_examples_that_were_moved_are_known_by_their_hash(copied):
    lines = [f'{{"text": "the {i}", "label": "{i % 2}"}}\n' for i in range(20)]
    Path("a.jsonl").write_text("".join(lines))
    config = FinetuneConfig(
        data=("a.jsonl",), model="runs/a", task="classify", steps=2, batch_size=2, threads=1, precision="fp32"
    )
    run.begin("runs/tuned", config, stop_after=1)
    Path("a.jsonl").rename("b.jsonl")
    with pytest.raises(CheckpointError, match=r"a\.jsonl, which cannot be read again"):
        run.resume("runs/tuned")
    Path("c.jsonl").write_text("".join(reversed(lines)))
    with pytest.raises(CheckpointError, match="has changed"):
        run.resume("runs/tuned", changes={"data": ("c.jsonl",)})
    assert run.resume("runs/tuned", changes={"data": ("b.jsonl",)})["finished"]


# With which settings


def test_edits_of_a_runs_settings_are_applied(copied):
    edit(copied, "steps = 8", "steps = 9")
    edit(copied, "keep_checkpoints = 9", "keep_checkpoints = 1")
    told = Told()
    run.resume(copied, told)
    assert [note for note in told.notes if "steps is 9, was 8; keep_checkpoints is 1, was 9" in note]
    best = native.latest(copied)[0].training["progress"]["best_step"]
    assert native.steps(copied) == sorted({best, 9})
    told = Told()
    run.resume(copied, told)
    assert not [note for note in told.notes if "keep_checkpoints" in note]  # said once


def test_a_flag_goes_before_an_edit(copied):
    edit(copied, "steps = 8", "steps = 12")
    assert run.resume(copied, changes={"steps": 9})["steps"] == 9


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "dropout = 0.1",
            "dropout = 0.2",
            r"dropout cannot change from 0\.1 to 0\.2 when a run is resumed \(edited in runs/a/config\.toml\)",
        ),
        ("dropout = 0.1\n", "", r"dropout cannot change from 0\.1 to 0\.0"),
        (
            "embed_dim = 16",
            "embed_dim = 32\nseed = 5\n#",
            "embed_dim cannot change from 16 to 32, nor seed from 0 to 5",
        ),
        ("steps = 8", "minutes = 1", "minutes cannot change from not set to 1"),
        ("steps = 8", "steps = 8\nlerning_rate = 1", "'lerning_rate', which does not exist"),
        ("steps = 8", "steps = 7", "has done 8 steps"),
    ],
)
def test_edits_that_cannot_be_are_refused_by_name(copied, old, new, told):
    if "seed" in new:
        edit(copied, "seed = 0", "")
    edit(copied, old, new)
    with pytest.raises(ConfigError, match=told):
        run.resume(copied)
    assert native.steps(copied) == [0, 2, 4, 6, 8]


def test_steps_take_the_place_of_minutes_in_an_edit(copied, tmp_path):
    run.begin("runs/b", settings(steps=None, minutes=9.0), stop_after=2)
    edit("runs/b", "minutes = 9.0", "steps = 8")
    assert run.resume("runs/b")["steps"] == 8


def test_threads_and_micro_batches_may_change_and_it_is_said(copied):
    told = Told()
    run.resume(copied, told, changes={"threads": 2, "micro_batch_size": 2, "steps": 9})
    said = " ".join(told.warnings)
    assert re.search("threads 1 and goes on with 2: the last bits may differ", said)
    assert re.search("micro_batch_size unset and goes on with 2: the last bits may differ", said)
    assert "threads = 2" in (copied / "config.toml").read_text()
    told = Told()
    run.resume(copied, told)
    assert told.warnings == []


def test_a_run_stops_before_its_first_step(copied):
    summary = run.begin("runs/b", settings(), stop_after=0)
    assert (summary["finished"], summary["steps"]) == (False, 0)
    assert native.steps(Path("runs/b")) == [0]
    with pytest.raises(ConfigError, match="stop_after is -1"):
        run.resume("runs/b", stop_after=-1)
    assert run.resume("runs/b", stop_after=0)["steps"] == 0
    run.resume("runs/b")
    assert weights("runs/b") == weights(copied)
