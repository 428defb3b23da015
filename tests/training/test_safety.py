"""Nothing that somebody still needs is removed: earlier runs, bases of adapters, checkpoints and records."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest

import handloom
from handloom import locks, ownership, storage
from handloom.checkpoints import native
from handloom.errors import CheckpointError, ConfigError
from handloom.loading import find_model
from handloom.training import run
from handloom.training.config import FinetuneConfig
from handloom.training.loop import DivergenceError, Trainer
from handloom.training.metrics_log import METRICS, read_metrics
from handloom.training.progress import Reporter


class Listener(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)

    def warning(self, text):
        self.told.append(text)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, corpus_folder):
    """A run of 8 steps with checkpoints of 4 and 8. Not to be changed: copy it first."""
    from handloom.training.config import TrainConfig

    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDLOOM_CACHE", str(folder.parent / "cache"))
        shape = {"vocab_size": 300, "layers": 2, "heads": 2, "embed_dim": 16, "context_length": 16}
        often = {"eval_every": 4, "checkpoint_every": 4, "sample_every": 0, "threads": 1, "batch_size": 4}
        config = TrainConfig(data=(str(corpus_folder),), steps=8, precision="fp32", **shape, **often)
        run.begin(folder, config)
    return folder


@pytest.fixture
def base(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "base")


@pytest.fixture
def tune(corpus_folder):
    def make(model, **changes):
        settings = {"data": (str(corpus_folder),), "steps": 2, "threads": 1, "precision": "fp32"}
        settings |= {"sample_every": 0, "batch_size": 4}
        return FinetuneConfig(**{**settings, "model": str(model), **changes})

    return make


def files(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Case 1


@pytest.mark.parametrize("name", ["base", "link", "base/checkpoints/step-00000008"])
def test_a_model_is_not_replaced_by_its_own_tuning(base, tune, tmp_path, name):
    (tmp_path / "link").symlink_to(base)
    before = files(base)
    for target in (base, tmp_path / "link"):
        with pytest.raises(ConfigError, match="cannot be replaced: this command reads"):
            run.begin(target, tune(tmp_path / name), overwrite=True)
    assert files(base) == before


def test_nor_is_the_base_of_the_adapter_that_is_tuned_on(base, tune, tmp_path):
    run.begin(tmp_path / "lora", tune(base))
    with pytest.raises(ConfigError, match="cannot be replaced: this command reads"):
        run.begin(base, tune(tmp_path / "lora", method="full"), overwrite=True)
    assert find_model(tmp_path / "lora").load_model() is not None


# Case 4


@pytest.mark.parametrize("where", ["save", "validate"])
@pytest.mark.parametrize("error", [CheckpointError("No space", "Free some."), KeyboardInterrupt()])
def test_the_earlier_run_comes_back_if_the_first_save_fails(base, tiny, monkeypatch, where, error):
    def fail(*_, **__):
        raise error

    before = files(base)
    monkeypatch.setattr(*((native, "save") if where == "save" else (Trainer, "validate")), fail)
    with pytest.raises(type(error)):
        run.begin(base, tiny(), overwrite=True)
    assert files(base) == before
    monkeypatch.undo()


def test_a_run_that_fails_after_its_first_save_stays(base, tiny, monkeypatch):
    step = Trainer.step

    def diverge(self, wish):
        return step(self, wish) if self.progress.step < 2 else self._diverged("the loss is not finite")

    monkeypatch.setattr(Trainer, "step", diverge)
    with pytest.raises(DivergenceError):
        run.begin(base, tiny(checkpoint_every=1), overwrite=True)
    assert native.steps(base)[-1] == 2
    assert not (base / ownership.PREVIOUS).exists()


# Case 5


def test_an_adapter_finds_its_checkpoint_when_its_base_goes_on(base, tune, tmp_path):
    run.begin(tmp_path / "lora", tune(base))
    before = find_model(tmp_path / "lora").load_model().state_dict()
    run.resume(base, changes={"steps": 24, "keep_checkpoints": 1})
    assert native.steps(base) == [8, 24], "what the adapter needs is kept"
    after = find_model(tmp_path / "lora").load_model().state_dict()
    assert all(tensor.equal(after[name]) for name, tensor in before.items())
    notes: list[str] = []
    handloom.load(base, adapter=tmp_path / "lora", on_note=notes.append)
    assert "step-00000008 is used, on which the adapter was trained" in notes[0]
    run.resume(tmp_path / "lora", changes={"steps": 3})
    with pytest.raises(CheckpointError, match=r"are different\. Use its base model: .*step-00000008"):
        handloom.load(base / "checkpoints" / "step-00000024", adapter=tmp_path / "lora")


def test_once_the_adapter_is_gone_its_base_is_pruned_again(base, tune, tmp_path):
    run.begin(tmp_path / "lora", tune(base))
    shutil.rmtree(tmp_path / "lora")
    run.resume(base, changes={"steps": 12, "keep_checkpoints": 1})
    assert native.steps(base) == [12]


def test_a_comparison_takes_the_checkpoint_that_the_adapter_was_trained_on(base, tune, tmp_path):
    from handloom.cli.compare import _find
    from handloom.evaluation.provenance import base_models

    find = partial(_find, precision="fp32")
    run.begin(tmp_path / "lora", tune(base))
    run.resume(base, changes={"steps": 12})
    line, missing = base_models(find(str(tmp_path / "lora"), None), [], find)
    assert ([each.folder for each in line], missing) == ([native.step_folder(base, 8)], None)


def test_an_adapter_and_its_base_that_were_moved_together_find_each_other(trained, tune, tmp_path):
    (here := tmp_path / "here").mkdir()
    shutil.copytree(trained, here / "base")
    run.begin(here / "lora", tune(here / "base"))
    here.rename(there := tmp_path / "there")
    run.resume(there / "base", changes={"steps": 12, "keep_checkpoints": 1})
    assert native.steps(there / "base") == [8, 12]


def test_a_base_that_was_pruned_while_its_adapter_was_prepared_is_told(base, tune, tmp_path, monkeypatch):
    describe = run._Session.describe

    def prune_meanwhile(*told):
        shutil.rmtree(native.step_folder(base, 8))
        describe(*told)

    monkeypatch.setattr(run._Session, "describe", prune_meanwhile)
    with pytest.raises(CheckpointError, match=r"step-00000008 was removed while this run was prepared"):
        run.begin(tmp_path / "lora", tune(base))
    assert not (tmp_path / "lora").exists()


def test_a_preference_run_needs_its_reference_and_full_tuning_does_not(base, tune, tmp_path):
    run.begin(tmp_path / "full", tune(base, method="full"))
    assert ownership.dependents(base) == {}
    pairs = tmp_path / "pairs.jsonl"
    line = {"prompt": "the", "chosen": " loom weaves", "rejected": " red thread"}
    pairs.write_text("".join(json.dumps({**line, "prompt": f"the {n}"}) + "\n" for n in range(20)))
    settings = tune(base, task="dpo", method="full", data=(str(pairs),))
    run.begin(tmp_path / "dpo", settings, stop_after=1)
    assert list(ownership.dependents(base)) == ["step-00000008"]
    run.resume(base, changes={"steps": 12, "keep_checkpoints": 1})
    run.resume(tmp_path / "dpo")


def test_checkpoints_that_an_adapter_needs_are_not_dropped(base, tune, tmp_path):
    run.begin(tmp_path / "lora", tune(base))
    with pytest.raises(ConfigError, match=r"step-00000008 of .* is not moved: .*lora was trained from it"):
        run.resume(base / "checkpoints" / "step-00000004", drop_later=True)


def test_a_base_that_may_not_be_written_serves_all_the_same(base, tune, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    write = ownership.write_json
    where = lambda path, value: refuse() if path.is_relative_to(base) else write(path, value)  # noqa: E731
    monkeypatch.setattr(ownership, "write_json", where)
    run.begin(tmp_path / "lora", tune(base))
    assert native.latest(tmp_path / "lora")[0].base.checkpoint == "step-00000008"


# Case 6


def rewrite(checkpoint, name, change):
    """Change a JSON file of a whole checkpoint, which stays whole."""
    values = storage.read_json(checkpoint / name)
    change(values)
    storage.write_json(checkpoint / name, values)
    manifest = storage.read_json(checkpoint / storage.MANIFEST)
    storage.write_json(checkpoint / storage.MANIFEST, {**manifest, name: storage.describe(checkpoint / name)})


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("config.json", lambda v: v.update(version=2), "has format version 2; this program reads version 1"),
        ("training.json", lambda v: v["settings"].update(new=1), r"training\.json: The settings hold new, which"),
        ("training.json", lambda v: v["progress"].update(new=1), r"training\.json: The progress holds new, whi"),
        ("training.json", lambda v: v.pop("progress"), r"training\.json is not as this version"),
        ("training.json", lambda v: v.pop("versions"), r"training\.json is not as this version"),
        ("training.json", lambda v: v.update(settings=[1]), "settings is not a dict"),
        ("training.json", lambda v: v.update(data=None), "data is not a str"),
        ("training.json", lambda v: v["progress"].update(step="x"), "step is not an int"),
        ("config.json", lambda v: v["model"].update(new=1), "holds the key 'new', which this version does not"),
    ],
)
def test_a_later_checkpoint_is_refused_by_name_and_left_alone(base, name, change, told):
    rewrite(native.step_folder(base, 8), name, change)
    before = files(base)
    with pytest.raises(CheckpointError, match=told):
        run.resume(base)
    assert files(base) == before


@pytest.mark.parametrize("times", [1, 2])
def test_an_incomplete_checkpoint_is_passed_over_and_kept(base, times):
    listener = Listener()
    for _ in range(times):
        weights = native.step_folder(base, 8) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-9])
        torn = weights.read_bytes()
        run.resume(base, listener)
    kept = base / "checkpoints" / f"set-aside-step-00000008-{times}"
    assert (kept / "model.safetensors").read_bytes() == torn
    assert f"The incomplete checkpoint is kept as {kept}." in listener.told
    assert native.open_checkpoint(native.step_folder(base, 8))
    assert ownership.foreign_files(base) == []


def test_a_checkpoint_that_cannot_be_read_now_is_not_passed_over(base, monkeypatch):
    """A disk that does not answer is no reason to train the last steps once more."""

    def refuse(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "sha256", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Input/output error"):
        run.resume(base)


# Case 7


@pytest.mark.parametrize("damage", [b"\x00\x00{", b"[1]", b'{"step": "4"}', b"\xff"])
def test_a_damaged_line_costs_no_other_records(base, damage):
    path = base / METRICS
    lines = path.read_bytes().split(b"\n")
    lines[2] = damage
    path.write_bytes(b"\n".join(lines))
    left = read_metrics(base)
    assert len(left) == len(lines) - 2
    listener = Listener()
    run.resume(base, listener, changes={"steps": 9})
    assert read_metrics(base)[: len(left)] == left
    kept = base / "metrics-damaged-1.jsonl"
    assert kept.read_bytes() == b"\n".join(lines)
    assert [told for told in listener.told if f"is kept as {kept}" in told]


# Case 9


def test_a_run_that_is_trained_is_neither_resumed_nor_replaced(base, tiny):
    before = files(base)
    with locks.own(base):
        for second in (lambda: run.resume(base), lambda: run.begin(base, tiny(), overwrite=True)):
            with pytest.raises(CheckpointError, match="is in use by process"):
                second()
        find_model(base).load_model()  # readers are free
    assert files(base) == before
