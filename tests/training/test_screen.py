"""Losing the screen loses nothing: a run goes on, says so in its log, and its checkpoints are what they would be."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from handloom import screen
from handloom.checkpoints import native
from handloom.cli.main import main
from handloom.training import run
from handloom.training.metrics_log import read_metrics
from handloom.training.progress import Reporter, TerminalReporter


def final_state(folder):
    checkpoint, _ = native.latest(folder)
    names = ("model.safetensors", "optimizer.safetensors")
    return {name: (checkpoint.folder / name).read_bytes() for name in names}


def lost(folder):
    return {record["lost"] for record in read_metrics(folder) if record["kind"] == "screen"}


class Gone(io.StringIO):
    """A terminal whose window was closed."""

    def write(self, _):
        raise OSError(5, "Input/output error")

    def isatty(self):
        return True


class Printing(Reporter):
    """What somebody's own script might do."""

    def step(self, *_, **__):
        print("a step, in Zürich", flush=True)
        print("a step", file=sys.stderr)


def closed_pipe():
    reads, writes = os.pipe()
    os.close(reads)
    return open(writes, "w", encoding="utf-8")


def full_device():
    return open("/dev/full", "w", encoding="utf-8")


SCREENS = {
    "Broken pipe": closed_pipe,
    "No space left on device": full_device,
    "Input/output error": Gone,
    "was closed before this began": lambda: None,
    "I/O operation on closed file": lambda: [f := io.StringIO(), f.close()][0],
    "codec can't encode": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
}


STRAIGHT = {}


@pytest.mark.parametrize(
    ("reason", "reporter"),
    [*((reason, Printing) for reason in SCREENS), *((r, TerminalReporter) for r in list(SCREENS)[:4])],
)
def test_a_run_outlives_its_screen_to_the_same_bits(tmp_path, tiny, monkeypatch, reason, reporter):
    folder = tmp_path / "run"
    if not STRAIGHT:
        run.begin(tmp_path / "straight", tiny())
        STRAIGHT.update(final_state(tmp_path / "straight"))
        assert not lost(tmp_path / "straight")
    stream = SCREENS[reason]()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        told = reporter()
        with told if reporter is TerminalReporter else contextlib.nullcontext():
            assert not run.begin(folder, tiny(), told, stop_after=3)["finished"]
            assert run.resume(folder, told)["finished"]
        assert sys.stdout is stream
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.close()
    assert final_state(folder) == STRAIGHT
    assert any(reason in each and each.startswith("stdout: ") for each in lost(folder))


def test_what_was_lost_is_written_down_once_for_each_stream(tmp_path, tiny, monkeypatch):
    for name in screen.NAMES:
        monkeypatch.setattr(sys, name, Gone())
    run.begin(tmp_path / "run", tiny(), Printing())
    records = [record for record in read_metrics(tmp_path / "run") if record["kind"] == "screen"]
    assert [(r["step"], r["lost"]) for r in records] == [
        (1, "stdout: Input/output error"),
        (1, "stderr: Input/output error"),
    ]


def test_a_screen_shows_what_it_can_and_is_a_stream_to_everybody(capsys):
    before = sys.stdout, sys.stderr
    with screen.shielded(*screen.NAMES), screen.shielded("stdout"):
        assert isinstance(sys.stdout, screen.Screen)
        assert sys.stdout.writable()
        print("shown")
        assert sys.stdout.encoding == before[0].encoding
        assert screen.losses() == []
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "shown\n"


@pytest.mark.parametrize("command", ["prepare", "pull"])
def test_a_long_command_does_its_work_without_a_terminal_to_show_its_progress(
    tmp_path, corpus_folder, monkeypatch, hub, command
):
    """Its progress goes to a terminal that was closed meanwhile; its product is in a folder."""
    monkeypatch.setattr(sys, "stderr", Gone())
    prepare = ["data", "prepare", "--data", str(corpus_folder), "--tokenizer", "gpt2"]
    with pytest.raises(SystemExit) as ended:
        main(prepare if command == "prepare" else ["pull", "acme/tiny"])
    assert not ended.value.code
    made = "cache/data/*/*" if command == "prepare" else "models/**/config.json"
    assert list(tmp_path.glob(made))


def flags(corpus_folder, folder, steps):
    sizes = "--vocab-size 300 --layers 2 --heads 2 --embed-dim 16 --context-length 16 --batch-size 4 --threads 1"
    loop = f"--precision fp32 --sample-every 0 --steps {steps} --eval-every 50000 --checkpoint-every 50000"
    return ["train", "--data", str(corpus_folder), "--run", str(folder), *sizes.split(), *loop.split()]


def start(words, **how):
    return subprocess.Popen(
        [sys.executable, "-m", "handloom", *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, **how
    )


def wait_for_a_step(folder, process):
    while not any(record["kind"] == "train" for record in read_metrics(folder)):
        assert process.poll() is None
        time.sleep(0.05)


def straight_to(step, tmp_path, corpus_folder, tiny):
    """The same run in this process, without a stop."""
    settings = {"steps": 100_000, "eval_every": 50_000, "checkpoint_every": 50_000, "dropout": 0.0}
    run.begin(tmp_path / "straight", tiny(**settings), stop_after=step)
    return final_state(tmp_path / "straight")


def test_ctrl_c_through_a_pipe_whose_reader_has_gone_saves(tmp_path, corpus_folder, tiny):
    """`handloom train ... | tee log`, Ctrl-C: tee is dead before we say a word."""
    folder = tmp_path / "run"
    process = start(flags(corpus_folder, folder, 100_000), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    wait_for_a_step(folder, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    step = native.steps(folder)[-1]
    assert [record["step"] for record in read_metrics(folder) if record["kind"] == "train"][-1] == step > 0
    assert "stdout: Broken pipe" in lost(folder)
    assert run.resume(folder, stop_after=step + 3)["steps"] == step + 3
    assert final_state(folder) == straight_to(step + 3, tmp_path, corpus_folder, tiny)


def test_a_terminal_that_is_closed_saves(tmp_path, corpus_folder, tiny):
    """The window is closed, or the ssh session ends: SIGHUP, and every write fails from then on."""
    folder = tmp_path / "run"
    child, master = pty.fork()
    if child == 0:
        os.environ["OMP_NUM_THREADS"] = "1"
        words = [sys.executable, "-m", "handloom", *flags(corpus_folder, folder, 100_000)]
        os.execv(sys.executable, words)
    while not any(record["kind"] == "train" for record in read_metrics(folder)):
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.05)
    os.close(master)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGHUP)  # a shell tells its jobs as well
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    step = native.steps(folder)[-1]
    assert [record["step"] for record in read_metrics(folder) if record["kind"] == "train"][-1] == step > 0
    assert run.resume(folder, stop_after=step + 3)["steps"] == step + 3
    assert final_state(folder) == straight_to(step + 3, tmp_path, corpus_folder, tiny)


SHELL = [
    ("tokenize Hello --json >&-", 0, "", ""),
    ("tokenize Hello --json 2>&-", 0, '"ids"', ""),
    ("tokenize Hello --json >/dev/full", 2, "", "No space left on device"),
    ("tokenize Hello --tokenizer nowhere 2>&-", 2, "", ""),
    ("tokenize Hello --tokenizer nowhere 2>/dev/full", 2, "", ""),
    ("tokenize Hello --json | true", 0, "", ""),
    ("model presets | true", 0, "", ""),  # a table of rich's
]


@pytest.mark.parametrize(("command", "code", "out", "err"), SHELL)
def test_a_command_whose_product_is_its_output(command, code, out, err):
    """Nothing of stderr strays into stdout, a full disk is an error, and a reader who has gone is none."""
    line = f"set -o pipefail; {sys.executable} -m handloom {command}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert out in done.stdout if out else not done.stdout
    assert err in done.stderr if err else not done.stderr
