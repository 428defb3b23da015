"""`handloom pull` and `handloom model list`, as a user has them."""

from __future__ import annotations

import json
import signal
import time

import pytest

from loopback_hub import tiny_gpt2

WEIGHTS = "model.safetensors"


def test_pull_then_list(hub, handloom, tmp_path):
    result = handloom("pull", "gpt2")
    assert (result.returncode, result.err) == (0, "")
    folder = tmp_path / "models" / "gpt2"
    commit = hub.commit("openai-community/gpt2")
    assert result.out == (
        f"gpt2 is in {folder}: 0.5 MB, 0.5 MB fetched.\nIt is openai-community/gpt2 at revision {commit}.\n"
    )
    assert (folder / WEIGHTS).read_bytes() == tiny_gpt2()[WEIGHTS]
    assert "nothing had to be fetched" in handloom("pull", "gpt2").out
    hub.close()  # from here on no network
    listed = handloom("model", "list", COLUMNS="120")
    assert (listed.returncode, listed.err) == (0, "")
    row = next(line.split() for line in listed.out.splitlines() if line.split()[:1] == ["gpt2"])
    assert row[1:3] == ["0.5", "openai-community/gpt2"]
    assert row[-2] == commit[:12]
    assert listed.out.endswith(f"Kept in {tmp_path / 'models'}\n")
    (line,) = handloom("model", "list", "--json").out.splitlines()
    told = json.loads(line)
    assert told["name"] == "gpt2"
    assert told["folder"] == str(folder)
    assert told["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert (told["repository"], told["revision"]) == ("openai-community/gpt2", commit)
    assert told["endpoint"] == hub.url
    assert told["pulled"].endswith("+00:00")


def test_no_models_yet(inside, tmp_path):
    listed = inside("model", "list")
    assert listed.returncode == 0
    assert str(tmp_path / "models") in listed.out
    assert "handloom pull gpt2" in listed.out
    assert inside("model", "list", "--json").out == ""
    assert not (tmp_path / "models").exists()


def test_a_model_copied_by_hand_is_listed(inside, tmp_path):
    folder = tmp_path / "models" / "acme--tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(bytes(250_000))
    row = next(line for line in inside("model", "list").out.splitlines() if "acme/tiny" in line)
    assert row.split() == ["acme/tiny", "0.2", "copied", "by", "hand"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gtp2",), "Did you mean 'gpt2'?"),
        (("acme/nothing",), "does not have a model acme/nothing"),
        (("gpt2", "--revision", "v9"), "does not have the revision 'v9'"),
        (("gpt2", "--endpoint", "mirror"), "is not a web address"),
    ],
)
def test_an_error_is_one_paragraph_and_exit_code_2(words, said, hub, inside):
    result = inside("pull", *words)
    assert (result.returncode, result.out) == (2, "")
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    assert said in result.err


def test_ctrl_c_keeps_what_was_fetched_and_the_same_command_goes_on(hub, start, handloom, tmp_path):
    hub.faults.stall = {WEIGHTS: 200_000}
    process = start("pull", "gpt2")
    unfinished = tmp_path / "models" / ".unfinished-gpt2"
    parts = []
    for _ in range(600):
        parts = list(unfinished.glob(f"{WEIGHTS}.*.part"))
        if process.poll() is not None or (parts and parts[0].stat().st_size == 200_000):
            break
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode() == "What was fetched is kept; the same command resumes.\n\nStopped.\n"
    assert parts[0].stat().st_size == 200_000
    listed = handloom("model", "list").out
    assert "No model in" in listed
    assert "Unfinished, 0.2 MB fetched: gpt2. To resume: handloom pull gpt2" in listed
    hub.faults.stall = {}
    assert handloom("pull", "gpt2").returncode == 0
    assert hub.asked(WEIGHTS)[-1].headers["range"] == "bytes=200000-"
    assert hub.sent(WEIGHTS) == len(tiny_gpt2()[WEIGHTS])
    assert not unfinished.exists()


def test_a_terminal_sees_progress_and_nothing_of_it_stays(hub, inside, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    result = inside("pull", "gpt2")
    assert result.returncode == 0
    assert WEIGHTS in result.err
    assert WEIGHTS not in result.out
