"""What of its data a run leaves out is said before it trains, kept in data.json, and known to `data check`."""

from __future__ import annotations

import json
import shutil

import pytest
from test_tasks import Heard

from handloom.data.lint import DataStats, LintSettings, lint
from handloom.tokenizer import load_tokenizer
from handloom.training import run


@pytest.fixture
def here(tmp_path, monkeypatch, corpus_folder):
    """The current folder, with forty documents in it."""
    folder = tmp_path / "here"  # beside the cache
    shutil.copytree(corpus_folder, folder)
    monkeypatch.chdir(folder)
    return folder


def checked(source, folder, **settings):
    """What `data check` says is left out."""
    seen = DataStats()
    list(lint([source], load_tokenizer(folder / "tokenizer"), LintSettings(context_length=16, **settings), seen))
    return seen.omissions.to_dict()


def described(folder):
    return json.loads((folder / "data.json").read_text(encoding="utf-8"))


def test_runs_in_the_folder_of_data_are_not_learned_from(here, tiny):
    """Once a run's samples and merges were the data of the next, and no run could go on."""
    first, second = here / "runs" / "a", here / "runs" / "b"
    heard = Heard()
    assert not run.begin(first, tiny(data=(".",)), stop_after=4)["finished"]
    assert run.resume(first, heard)["finished"]
    assert any("1 folder of a run, a model or prepared data was left out: runs/a." in w for w in heard.warnings)
    run.begin(second, tiny(data=(".",), steps=1))
    assert described(first)["key"] == described(second)["key"]
    assert described(second)["omitted"]["own-folder"] == {"count": 1, "first": ["runs/a"]}


def test_what_is_left_out_is_said_kept_and_known_to_the_check(here, tiny):
    """80 of 100 documents were empty, and a run said: 19 documents."""
    lines = [json.dumps({"text": "" if n % 5 else f"The document of number {n}, a text."}) for n in range(100)]
    (here / "d.jsonl").write_text("\n".join([*lines, lines[0]]), encoding="utf-8")
    (here / "notes.rst").write_text("What is this?", encoding="utf-8")
    heard = Heard()
    run.begin(here / "run", tiny(data=(".",), steps=100), heard)
    omitted = described(here / "run")["omitted"]
    assert {reason: count["count"] for reason, count in omitted.items()} == {
        "suffix": 1, "empty": 80, "duplicate": 1
    }  # fmt: skip
    assert heard.notes.count("80 empty documents were left out: d.jsonl:2, d.jsonl:3, d.jsonl:4 and others.") == 1
    assert [w.split(":")[0] for w in heard.warnings] == ["1 file in a folder was left out for its suffix (1 .rst)"]
    omitted["own-folder"] = {"count": 1, "first": ["run"]}
    assert checked(".", here / "run") == omitted
