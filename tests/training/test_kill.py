"""The process is killed, for real, wherever it happens to be; the run goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from handloom.checkpoints import native
from handloom.training import run
from handloom.training.log import read_metrics

BEGIN = """
import sys
from pathlib import Path
from handloom.training import run
from handloom.training.log import read_metrics
from handloom.training.config import TrainConfig
folder, corpus = Path(sys.argv[1]), sys.argv[2]
if (folder / "checkpoints").exists() and any((folder / "checkpoints").glob("step-*")):
    run.resume(folder)
else:
    run.begin(folder, TrainConfig(**{SETTINGS}, data=(corpus,)), overwrite=True)
"""


def start(folder, corpus, settings):
    script = BEGIN.replace("{SETTINGS}", repr(settings))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(corpus)], env=environment, stderr=subprocess.PIPE
    )


def final_state(folder):
    checkpoint, _ = native.latest(folder)
    assert checkpoint.training["progress"]["step"] == checkpoint.training["progress"]["total"]
    names = ("model.safetensors", "optimizer.safetensors")
    return {name: (checkpoint.folder / name).read_bytes() for name in names}


def kill_many_times(tmp_path, corpus_folder, kills, steps):
    settings = {
        "vocab_size": 300, "preset": "nano", "layers": 2, "heads": 2, "width": 16, "context": 16,
        "steps": steps, "batch_size": 4, "precision": "fp32", "threads": 1, "dropout": 0.1, "sample_every": 0,
        "evaluate_every": 40, "checkpoint_every": 7,
    }  # fmt: skip
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    process = start(straight, corpus_folder, settings)
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    rng = random.Random(0)
    for _ in range(kills):
        process = start(killed, corpus_folder, settings)
        wait_for_records(killed, process, rng.randrange(3, 40))
        time.sleep(rng.uniform(0.0, 0.02))  # anywhere: in a step, in a validation, in a save
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it was still at work
        process.stderr.close()
    before_the_last = native.latest(killed)[0].training["progress"]["step"]
    process = start(killed, corpus_folder, settings)
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    assert before_the_last > 0
    assert final_state(killed) == final_state(straight)
    assert not list((killed / "checkpoints").glob(".unfinished*"))


def wait_for_records(folder, process, count):
    """Wait until the process has written `count` records; it first removes those it is going to repeat."""
    kept = {r["step"] for r in read_metrics(folder)}
    last = native.steps(folder)[-1] if native.steps(folder) else 0
    while process.poll() is None:
        records = read_metrics(folder)
        if len(records) <= len(kept):
            kept = {r["step"] for r in records if r["step"] <= last}
        if sum(r["step"] > last for r in records) >= count and len(records) != 0:
            return
        time.sleep(0.002)


def test_killed_three_times_and_resumed_equals_never_killed(tmp_path, corpus_folder):
    kill_many_times(tmp_path, corpus_folder, kills=3, steps=400)


@pytest.mark.slow
def test_killed_twenty_times_and_resumed_equals_never_killed(tmp_path, corpus_folder):
    kill_many_times(tmp_path, corpus_folder, kills=20, steps=1500)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_says_how_to_go_on(tmp_path, corpus_folder, number):
    """Through the command line: exit code 0, the run is saved at the step it was at."""
    folder = tmp_path / "run"
    flags = [
        "--data",
        str(corpus_folder),
        "--steps",
        "100000",
        "--preset",
        "nano",
        "--width",
        "16",
        "--heads",
        "2",
    ]
    flags += [
        "--context",
        "16",
        "--vocab-size",
        "300",
        "--evaluate-every",
        "50000",
        "--checkpoint-every",
        "50000",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "handloom", "train", "--run", str(folder), "--sample-every", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        text=True,
    )
    while process.poll() is None and not any(r["kind"] == "train" for r in read_metrics(folder)):
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"handloom train --resume {folder}" in output
    assert "Traceback" not in output
    step = native.steps(folder)[-1]
    assert 0 < step < 100_000
    assert run.resume(folder, stop_after=step + 1)["steps"] == step + 1
