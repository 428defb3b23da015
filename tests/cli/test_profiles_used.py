"""A tuned profile: used where neither threads nor a precision are given, said once, recorded; else not."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from handloom import runtime
from handloom.cli.tune import print_profile
from handloom.hardware import profiles
from handloom.hardware.profiles import Profile
from handloom.native import library as native
from handloom.training.config import FinetuneConfig, TrainConfig
from handloom.training.setup import tuned_for_training
from handloom.tuned import identity_of


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    """Keeps a profile of a model: fp16 with one thread, and training with three."""
    monkeypatch.setattr(native, "available", lambda: None)
    monkeypatch.setattr(native, "why_unavailable", lambda: "this test has none")
    for name in ("OMP_NUM_THREADS", "HANDLOOM_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    monkeypatch.setattr(runtime, "available_cores", lambda: 2)

    def keep(model):
        profiles.keep(identity_of(str(model))[0], Profile(str(model), 1, "fp16", 3, "fp32"))
        return str(model)

    yield keep
    torch.set_num_threads(threads)


def generated(inside, run, *flags):
    done = inside("generate", "The", "--model", run, "--max-new-tokens", "2", "--json", *flags)
    assert done.returncode == 0, done.err
    return json.loads(done.out)["precision"], done.err


def test_generate_uses_it_and_says_so(inside, trained_run, tuned):
    precision, notes = generated(inside, tuned(trained_run))
    assert precision == "fp16"
    assert "Note: fp16, 1 thread, as `handloom tune` measured (--precision fp32 for exact results).\n" in notes
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("flags", [("--precision", "fp32"), ("--threads", "2")])
def test_what_the_user_gives_goes_first(inside, trained_run, tuned, flags):
    precision, notes = generated(inside, tuned(trained_run), *flags)
    assert precision != "fp16"
    assert "tune" not in notes
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("name", "value"), [("HANDLOOM_PRECISION", "fp32"), ("OMP_NUM_THREADS", "2")])
def test_so_does_the_environment(inside, trained_run, tuned, monkeypatch, name, value):
    run = tuned(trained_run)
    monkeypatch.setenv(name, value)
    assert "tune" not in generated(inside, run)[1]


def test_a_run_uses_it_and_writes_it_down(trained_run, tuned):
    notes = []
    config = FinetuneConfig(model=tuned(trained_run), data=("x",))
    found = tuned_for_training(config, notes.append)
    assert (found.threads, found.precision) == (3, "fp32")
    assert notes == [f"fp32, 3 threads, as `handloom tune {trained_run}` measured."]
    for given in ({"threads": 1}, {"precision": "fp32"}):
        asked = dataclasses.replace(config, **given)
        assert tuned_for_training(asked, notes.append) == asked
    assert len(notes) == 1


def test_a_run_from_scratch_uses_that_of_its_preset(tuned):
    tuned("nano")
    assert tuned_for_training(TrainConfig(preset="nano"), print).threads == 3
    other = TrainConfig(preset="nano", layers=2)
    assert tuned_for_training(other, print) == other
    assert tuned_for_training(TrainConfig(preset="micro"), print).threads is None


def test_a_table_of_what_was_measured(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    row = {"kind": "decode", "precision": "int8", "threads": 2, "tokens_per_second": 50.0, "busy_rounds": 1}
    rows = [{**row, "agreement": {"relative_perplexity": 0.0004}}]
    rows.append({**row, "precision": "fp32", "tokens_per_second": 25.0, "agreement": None, "busy_rounds": 0})
    print_profile(Profile("gpt2", 2, "int8", measured=rows))
    out = capsys.readouterr().out
    assert "100%  0.040%" in out
    assert "50%       -" in out
    assert "in 1 round" in out
    assert "Used from now on for gpt2: int8, 2 threads." in out
    assert max(map(len, out.splitlines())) <= 80
