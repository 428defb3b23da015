"""handloom finetune and what is done with its runs, where a person is easily misunderstood."""

from __future__ import annotations

import shutil

import pytest

FLAGS = (
    "--steps",
    4,
    "--batch-size",
    4,
    "--rank",
    2,
    "--sample-every",
    0,
    "--threads",
    1,
    "--precision",
    "fp32",
)


@pytest.fixture
def world(trained_run, tmp_path, monkeypatch):
    """The files and runs that `bad_inputs` describes, in the folder that commands are run in."""
    shutil.copytree(trained_run.parents[1], tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def tune(world, inside):
    """Tune runs/demo by a command, to runs/tuned unless told otherwise."""

    def run(*more, model="runs/demo", to="runs/tuned"):
        return inside("finetune", "--data", "fox.txt", "--model", model, "--run", to, *FLAGS, *more)

    return run


def test_each_command_goes_on_with_runs_of_its_own(tune, inside):
    """A flag that the other kind of run does not know made a traceback; without one, the other command obeyed."""
    stopped = tune("--stop-after", 2)
    assert "handloom finetune --resume runs/tuned" in stopped.out
    for flags in ((), ("--width", 32)):
        refused = inside("train", "--resume", "runs/tuned", *flags)
        assert refused.returncode == 2
        assert "Go on with it by: handloom finetune --resume runs/tuned" in refused.err
    for flags in ((), ("--rank", 4)):
        refused = inside("finetune", "--resume", "runs/demo", *flags)
        assert refused.returncode == 2
        assert "Go on with it by `handloom train --resume runs/demo`, or tune what it came to" in refused.err
    assert "4 steps in" in inside("finetune", "--resume", "runs/tuned").out
    assert "4 steps in" in inside("train", "--resume", "runs/demo").out
