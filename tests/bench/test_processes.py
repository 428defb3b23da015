"""New processes and the tokenizer, at the smallest sizes."""

from __future__ import annotations

import json

import pytest

from handloom.bench import processes, report
from handloom.bench.kinds import Start, Tokenize
from handloom.errors import HandloomError
from handloom.hardware.usage import Meter


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """Whatever else runs on this machine."""
    monkeypatch.setattr(Meter, "during", lambda self, work: (work(), 0.0))


def test_a_tokenizer_encodes_by_hand_and_through_tiktoken_and_decodes():
    found = processes.tokenize(Tokenize(text_bytes=2000, rounds=2), print)
    assert json.loads(json.dumps(found))["rows"] == found["rows"]
    assert [row["way"] for row in found["rows"]] == ["encode, by hand", "encode, tiktoken", "decode"]
    assert found["same_ids"] == 1.0
    assert found["text_bytes"] >= 2000
    assert all(row["bytes_per_second"] > 0 and row["rounds"] == 2 for row in found["rows"])


def test_texts_are_repeated_until_there_are_enough():
    assert sum(len(text.encode()) for text in processes.some_texts(10_000_000)) >= 10_000_000


def test_a_new_process_says_when_it_had_what(monkeypatch):
    script = "import time; now = time.time(); print('times', now, now + 1, now + 3, 77)"
    monkeypatch.setattr(processes, "FIRST_TOKEN", script)
    monkeypatch.setattr(processes, "on_disk", lambda name, folder: name)
    turns = []
    found = processes.start(Start(model="nano", precision=("fp32",), rounds=1, threads=1), print, turns.append)
    (row,) = found["rows"]
    assert turns == ["fp32", "fp32"]
    assert (round(row["load_seconds"], 3), round(row["first_token_seconds"], 3)) == (1.0, 2.0)
    assert row["seconds"] > 3
    assert row["peak_memory_bytes"] == 77
    assert found["parameters"] > 1e6


def test_a_process_that_writes_no_token_is_an_error():
    with pytest.raises(HandloomError, match="wrote no token: no such model"):
        processes.first_token(["python3", "-c", "raise SystemExit('no such model')"], {})


def test_processes_run_together_only_where_memory_allows():
    assert report.at_once(["fp32", "int8"], 10**6, 10**9) == [["fp32", "int8"]]
    assert report.at_once(["fp32", "int8"], 10**9, 10**10) == [["fp32"], ["int8"]]
