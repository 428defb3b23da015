"""The process is killed, for real, wherever it happens to be; the run goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from handloom import locks, ownership, replacement, storage
from handloom.checkpoints import native
from handloom.loading import find_model
from handloom.training import run
from handloom.training.metrics_log import read_metrics

BEGIN = """
import sys
from pathlib import Path
from handloom.training import run
from handloom.training.metrics_log import read_metrics
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
        "vocab_size": 300, "preset": "nano", "layers": 2, "heads": 2, "embed_dim": 16, "context_length": 16,
        "steps": steps, "batch_size": 4, "precision": "fp32", "threads": 1, "dropout": 0.1, "sample_every": 0,
        "eval_every": 40, "checkpoint_every": 7,
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
    flags = ["--data", str(corpus_folder), "--steps", "100000", "--preset", "nano", "--embed-dim", "16", "--heads", "2"]
    flags += ["--context-length", "16", "--vocab-size", "300", "--eval-every", "50000", "--checkpoint-every", "50000"]
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


# Replacing, and owning


REPLACE = """
import sys
from pathlib import Path
from handloom.training import run
from handloom.training.config import TrainConfig
folder, corpus, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
run.begin(folder, TrainConfig(**{SETTINGS}, data=(corpus,), seed=seed), overwrite=True)
"""
EXPORT = """
import sys
from pathlib import Path
from handloom.checkpoints.hf_export import export_folder
from handloom.loading import find_model
stored = find_model(sys.argv[1])
model, tokenizer, number = stored.load_model(), stored.load_tokenizer(), 0
while True:
    export_folder(Path(sys.argv[2]), model, tokenizer, overwrite=True)
    number += 1
    print(number, flush=True)
"""
TINY = {
    "vocab_size": 300, "preset": "nano", "layers": 1, "heads": 2, "embed_dim": 16, "context_length": 16,
    "batch_size": 4,
    "precision": "fp32", "threads": 1, "sample_every": 0, "eval_every": 2, "checkpoint_every": 1,
}  # fmt: skip


def script(text, *words, **more):
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


@pytest.mark.slow
def test_a_run_that_is_overwritten_is_there_whenever_the_process_is_killed(tmp_path, corpus_folder):
    """Twenty times, anywhere between the start of the new run and its end."""
    folder, text = tmp_path / "run", REPLACE.replace("{SETTINGS}", repr({**TINY, "steps": 40}))
    rng, seeds = random.Random(1), []
    for seed in range(21):
        process = script(text, folder, corpus_folder, seed)
        if seed:
            before = (replacement.current(folder) / "run.json").stat().st_mtime_ns
            began = time.monotonic()
            while process.poll() is None and time.monotonic() - began < 60:
                path = folder / "run.json"
                if path.exists() and path.stat().st_mtime_ns != before:  # the new one has begun
                    break
                time.sleep(0.0005)
            time.sleep(rng.choice([0, 0.0005, 0.002, 0.01, 0.05, 0.2]))
            process.kill()
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        checkpoint, passed_over = native.latest(replacement.current(folder))  # as a reader finds it
        assert passed_over == []
        with locks.own(folder):
            replacement.recover_run(folder)
        assert ownership.foreign_files(folder) == []
        assert native.latest(folder)[0].training["settings"] == checkpoint.training["settings"]
        seeds.append(checkpoint.training["settings"]["seed"])
        assert seeds[-1] in (seed, *seeds[-2:-1])
    assert run.resume(folder)["finished"]


@pytest.mark.slow
def test_an_export_that_is_overwritten_is_there_whenever_the_process_is_killed(tmp_path, corpus_folder, tiny):
    run.begin(tmp_path / "run", tiny(steps=1))
    target, rng = tmp_path / "there" / "export", random.Random(2)
    for _ in range(20):
        process = script(EXPORT, tmp_path / "run", target)
        assert process.stdout.readline() == b"1\n"
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.communicate()
        storage.verify_folder(replacement.current(target))
        with replacement.owned(target):
            storage.verify_folder(target)
    find_model(target).load_model()


@pytest.mark.slow
def test_of_many_that_begin_one_run_at_once_one_does(tmp_path, corpus_folder):
    text = REPLACE.replace("{SETTINGS}", repr({**TINY, "steps": 100, "checkpoint_every": 50}))
    for _ in range(3):
        processes = [script(text, tmp_path / "run", corpus_folder, seed) for seed in range(4)]
        errors = [process.communicate()[1].decode() for process in processes]
        won = [seed for seed, process in enumerate(processes) if process.returncode == 0]
        assert won, errors
        for seed, error in enumerate(errors):
            assert seed in won or "is in use by process" in error
        records = [r["step"] for r in read_metrics(tmp_path / "run") if r["kind"] == "train"]
        assert records == list(range(1, 101))
        assert native.latest(tmp_path / "run")[0].training["settings"]["seed"] in won
