"""What is replaced is there until the new thing is saved, wherever a process is killed; others are kept out."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crashes import killed_everywhere
from handloom import locks, ownership, replacement, storage
from handloom.errors import CheckpointError, ConfigError
from handloom.ownership import CHECKPOINTS, foreign_files, require_replaceable


def fill(run: Path, content: str) -> None:
    """A run without a model in it."""
    ownership.mark_run(run)
    for name in ("config.toml", "metrics.jsonl", "tokenizer/vocab.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(content)
    save(run, 0, content)


def save(run: Path, step: int, content: str) -> None:
    with storage.atomic_folder(run / CHECKPOINTS / f"step-{step:08d}", 0) as aside:
        (aside / "model.safetensors").write_text(content)


def contents(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for top in (run, run / CHECKPOINTS)
        for path in top.rglob("*")
        if path.is_file() and path.name != locks.IN_FOLDER
    }


def replace(run: Path) -> None:
    with locks.own(run):
        replacement.recover_run(run)
        require_replaceable(run, [], overwrite=True)
        with replacement.new_run(run) as saved:
            fill(run, "new")
            saved()
            save(run, 1, "new")


@pytest.fixture(params=["a folder", "checkpoints on another disk"])
def run(request, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    if request.param != "a folder":
        (tmp_path / "disk").mkdir()
        (run / CHECKPOINTS).symlink_to(tmp_path / "disk")
    fill(run, "old")
    return run


def test_a_run_that_is_replaced_is_the_old_or_the_new_one_wherever_the_process_is_killed(run, tmp_path):
    old, linked = contents(run), (run / CHECKPOINTS).is_symlink()
    shutil.copytree(run, tmp_path / "copy", symlinks=True)
    if linked:
        shutil.copytree(tmp_path / "disk", tmp_path / "copied-disk")

    def prepare():
        shutil.rmtree(run)
        shutil.copytree(tmp_path / "copy", run, symlinks=True)
        if linked:
            shutil.rmtree(tmp_path / "disk")
            shutil.copytree(tmp_path / "copied-disk", tmp_path / "disk")

    found = []
    for number in killed_everywhere(lambda: replace(run), prepare):
        if not linked:  # a reader finds a whole model at any moment
            steps = list((replacement.current(run) / CHECKPOINTS).glob("step-*"))
            assert steps, number
            for step in steps:
                storage.verify_folder(step)
        with locks.own(run):
            replacement.recover_run(run)
        assert foreign_files(run) == []
        now = contents(run)
        found.append(now == old)
        if now != old:
            assert set(now.values()) - {b"new"} == {
                value for name, value in now.items() if name == "run.json" or name.endswith("manifest.json")
            }
            assert f"{CHECKPOINTS}/step-00000000/model.safetensors" in now
    assert len(found) > 30
    assert found == sorted(found, reverse=True), "once the new run is saved, it stays"
    assert 5 < sum(found) < len(found)


def test_a_new_run_that_fails_before_its_first_save_leaves_the_old_one_or_nothing(run, tmp_path):
    old = contents(run)

    def fail(folder):
        with locks.own(folder), replacement.new_run(folder):
            ownership.mark_run(folder)
            (folder / "metrics.jsonl").write_text("new")
            (folder / "tokenizer").mkdir()
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
            raise CheckpointError("No space", "")

    for error in range(2):
        with pytest.raises(CheckpointError):
            fail(run)
        assert contents(run) == old, error
    with pytest.raises(CheckpointError):
        fail(tmp_path / "runs" / "b")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["mine.txt", "tokenizer/mine.txt", "checkpoints/step-00000000/mine.txt"])
def test_a_file_that_somebody_adds_meanwhile_stays(run, name):
    old = contents(run)
    with locks.own(run), pytest.raises(KeyboardInterrupt):
        interrupted(run, name)
    assert contents(run) == {**old, name: b"mine"}
    with pytest.raises(ConfigError, match=rf"did not write: {name}\. It is left alone"):
        require_replaceable(run, [], overwrite=True)


def interrupted(run, name):
    with replacement.new_run(run):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
        raise KeyboardInterrupt


def export(target: Path, content: str) -> None:
    with replacement.new_folder(target, 0, [], overwrite=True) as aside:
        for name in ("config.json", "model.safetensors"):
            (aside / name).write_text(content)


def test_an_export_is_the_old_or_the_new_one_wherever_the_process_is_killed(tmp_path):
    target = tmp_path / "there" / "export"

    def prepare():
        shutil.rmtree(target.parent, ignore_errors=True)
        export(target, "old")

    found = []
    for number in killed_everywhere(lambda: export(target, "new"), prepare):
        there = replacement.current(target)
        storage.verify_folder(there)
        read = (there / "model.safetensors").read_text()
        with replacement.owned(target):
            assert (target / "model.safetensors").read_text() == read, number
        found.append(read)
        export(target, "next")
        assert os.listdir(target.parent) == ["export"]
    assert {*found} == {"old", "new"}
    assert found == sorted(found, reverse=True)


def test_one_owner_at_a_time(tmp_path):
    run = tmp_path / "run"
    with locks.own(run):
        owner = f"process {os.getpid()} on {platform.node()}"
        with pytest.raises(CheckpointError, match=f"run is in use by {owner}"), locks.own(run):
            pass
        held = replacement.owned(tmp_path / "export")
        with held, pytest.raises(CheckpointError, match=f"export is in use by {owner}"):
            export(tmp_path / "export", "second")
    assert not run.exists(), "it was made for the lock alone"
    with locks.own(run):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_goes_with_its_process_however_that_ends(tmp_path):
    script = "import sys, time, pathlib; from handloom import locks\n" \
             "with locks.own(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        in_use = pytest.raises(CheckpointError, match=f"in use by process {process.pid} on")
        with in_use, locks.own(tmp_path / "run"):
            pass
        process.kill()
        process.wait()
        with locks.own(tmp_path / "run"):
            pass


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/best/x", "tokenizer/mine.json", "plots/", "link"])
def test_a_run_with_other_files_is_not_replaced(run, name):
    path = run / name
    if name == "link":
        path.symlink_to(run / "config.toml")
    elif name.endswith("/"):
        path.mkdir()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=f"did not write: {name}"):
            require_replaceable(run, [], overwrite)


def test_what_carries_no_mark_is_not_replaced(tmp_path):
    for name in ("config.toml", "data.json", "metrics.jsonl", "tokenizer/vocab.json", "checkpoints/step-1/x"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"did not write: checkpoints, config\.toml, data\.json"):
            require_replaceable(tmp_path / "p", [], overwrite)


def test_nothing_that_is_read_is_replaced_by_whatever_name(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "texts").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "texts" / "a.txt").symlink_to(run / "config.toml")
    reads = [run, run / CHECKPOINTS / "step-00000000", tmp_path / "link" / "tokenizer", tmp_path / "texts"]
    for read in reads:
        for target in (run, tmp_path / "link", tmp_path / "x" / ".." / "run"):
            with pytest.raises(ConfigError, match=r"cannot be replaced: this command reads"):
                require_replaceable(target, [tmp_path / "nothing", read], overwrite=True)
    for inside in ("export", f"{CHECKPOINTS}/step-00000000"):
        with pytest.raises(ConfigError, match="which Handloom wrote and may remove"):
            require_replaceable(run / inside, [], overwrite=True)
    (tmp_path / "link").unlink()
    shutil.rmtree(tmp_path / "texts")
    require_replaceable(run, [tmp_path], overwrite=True)  # a folder around it


def test_an_export_that_was_edited_is_not_replaced(tmp_path):
    target = tmp_path / "export"
    export(target, "old")
    (target / "config.json").write_text("OLD")  # of the same length
    with pytest.raises(ConfigError, match=r"or that were changed since: config\.json"):
        export(target, "new")
    (target / "config.json").write_text("old")
    export(target, "new")


def test_a_checkpoint_that_a_run_needs_is_known_until_the_run_is_gone(run, tmp_path):
    base, other = run / CHECKPOINTS / "step-00000000", tmp_path / "lora"
    other.mkdir()
    ownership.mark_run(other, "fingerprint")
    ownership.record_dependent(base, other, "fingerprint")
    assert {step: len(runs) for step, runs in ownership.dependents(run).items()} == {"step-00000000": 1}
    with pytest.raises(ConfigError, match=r"lora was trained from its checkpoint step-00000000"):
        require_replaceable(run, [], overwrite=True)
    ownership.mark_run(other, "another")
    assert ownership.dependents(run) == {}
    assert foreign_files(run) == []
    require_replaceable(run, [], overwrite=True)
