"""handloom finetune and what is done with its runs, where a person is easily misunderstood."""

from __future__ import annotations

import shutil
from datetime import datetime

import pytest

from handloom.cli import train
from handloom.loading import find_model

FLAGS = ("--steps", 4, "--batch-size", 4, "--rank", 2, "--sample-every", 0, "--threads", 1, "--precision", "fp32")


@pytest.fixture
def world(trained_run, tmp_path, monkeypatch):
    """The files and runs that `bad_inputs` describes, in the folder that commands are run in."""
    shutil.copytree(trained_run.parents[1], tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def tune(world, inside):
    """Tune runs/demo by a command, to runs/tuned unless told otherwise."""

    def run(*more, data="fox.txt", model="runs/demo", to="runs/tuned"):
        return inside("finetune", "--data", data, "--model", model, "--run", to, *FLAGS, *more)

    return run


def test_each_command_goes_on_with_runs_of_its_own(tune, inside):
    """A flag that the other kind of run does not know made a traceback; without one, the other command obeyed."""
    stopped = tune("--stop-after", 2)
    assert "handloom finetune --resume runs/tuned" in stopped.out
    for flags in ((), ("--embed-dim", 32)):
        refused = inside("train", "--resume", "runs/tuned", *flags)
        assert refused.returncode == 2
        assert "Resume it with `handloom finetune`: --resume runs/tuned." in refused.err
    for flags in ((), ("--rank", 4)):
        refused = inside("finetune", "--resume", "runs/demo", *flags)
        assert refused.returncode == 2
        assert (
            "Resume it with `handloom train`: --resume runs/demo. Or finetune its model: --model runs/demo"
            in refused.err
        )
    assert "4 steps in" in inside("finetune", "--resume", "runs/tuned").out
    assert "4 steps in" in inside("train", "--resume", "runs/demo").out


def test_runs_that_begin_in_the_same_second_have_a_folder_each(world, inside, monkeypatch):
    """Two runs without --run, begun together, wrote into one folder."""

    class Stopped:
        @staticmethod
        def now():
            return datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(train, "datetime", Stopped)
    before = set((world / "runs").iterdir())
    command = ("finetune", "--data", "fox.txt", "--model", "runs/demo", *FLAGS)
    refused = inside(*command, "--method", "last:99")
    assert refused.returncode == 2
    assert set((world / "runs").iterdir()) == before  # what cannot begin leaves no folder behind
    first, second = inside(*command), inside(*command)
    assert "--model runs/2026-01-02-030405 " in first.out
    assert "--model runs/2026-01-02-030405-2 " in second.out
    assert {folder.name for folder in set((world / "runs").iterdir()) - before} == {
        "2026-01-02-030405",
        "2026-01-02-030405-2",
    }


def test_a_model_with_labels_shows_the_head_for_them(tune, world, inside):
    (world / "mail.jsonl").write_text(
        "".join(f'{{"text": "letter {i}", "label": "{"ham" if i % 2 else "spam"}"}}\n' for i in range(20))
    )
    tuned = tune("--task", "classify", "--method", "head", data="mail.jsonl")
    assert tuned.returncode == 0, tuned.err
    shown = inside("model", "show", "runs/tuned").out
    assert "head for labels" in shown
    model = find_model(world / "runs/tuned").load_model()
    assert f"{sum(p.numel() for p in model.parameters()):,}" in shown


EXAMPLES = {
    "sft": '{"messages": [{"role": "user", "content": "a %d"}, {"role": "assistant", "content": "runs"}]}',
    "dpo": '{"prompt": "the fox %d ", "chosen": "runs", "rejected": "sleeps"}',
    "classify": '{"text": "the fox %d", "label": "animal"}\n{"text": "the loom %d", "label": "thing"}',
}


@pytest.mark.parametrize("task", EXAMPLES)
def test_rows_of_tokens_learn_in_every_task_and_are_kept(tune, world, inside, task):
    line = EXAMPLES[task]
    lines = [line % ((i,) * line.count("%d")) for i in range(12)]
    (world / "examples.jsonl").write_text("\n".join(lines) + "\n")
    shape = ("--layers", 1, "--heads", 2, "--embed-dim", 16, "--vocab-size", 280, "--context-length", 48)
    inside("train", "--data", "fox.txt", "--run", "runs/base", *shape, *FLAGS[:4], *FLAGS[6:])
    rows = ("--trainable-tokens", 3, "--learning-rate", 0.01)
    tuned = tune("--task", task, *rows, data="examples.jsonl", model="runs/base")
    assert tuned.returncode == 0, tuned.err
    before = find_model(world / "runs/base").load_model().embedding.token_embedding.weight
    after = find_model(world / "runs/tuned").load_model().embedding.token_embedding.weight
    assert int((after != before).any(dim=1).sum()) == 3
    assert "rows of the token embedding" in tuned.out
