"""Files that commands write: aside, when all inputs were read, and never over an input."""

from __future__ import annotations

import json
import os

import pytest

QUESTIONS = [{"context": "The quick", "choices": ["fox", "dog"], "answer": 0}] * 3


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS), encoding="utf-8")
    (tmp_path / "labels.lst").write_text("0\n0\n0\n", encoding="utf-8")
    (tmp_path / "link.jsonl").symlink_to("q.jsonl")
    os.link(path, tmp_path / "hard.jsonl")
    return path


@pytest.mark.parametrize("items", ["q.jsonl", "./q.jsonl", "link.jsonl", "hard.jsonl", "labels.lst"])
def test_items_are_never_written_over_what_is_read(inside, trained_run, questions, items, tmp_path):
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    words = ("--data", "q.jsonl", "--labels", "labels.lst", "--task", "choice", "--items", items)
    done = inside("evaluate", trained_run, *words)
    assert done.returncode == 2
    assert "is read by this command" in done.err
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_items_are_never_written_over_a_part_of_the_model(inside, trained_run, questions):
    before = (trained_run / "config.toml").read_bytes()
    done = inside("evaluate", trained_run, "--data", "q.jsonl", "--items", trained_run / "config.toml")
    assert done.returncode == 2
    assert "part of" in done.err
    assert (trained_run / "config.toml").read_bytes() == before


def test_a_fault_in_the_last_line_leaves_an_earlier_file_as_it_was(inside, trained_run, questions, tmp_path):
    with questions.open("a", encoding="utf-8") as file:
        file.write("not JSON\n")
    (tmp_path / "out.jsonl").write_text("earlier", encoding="utf-8")
    done = inside("evaluate", trained_run, "--data", "q.jsonl", "--items", "out.jsonl")
    assert done.returncode == 2
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "earlier"
    assert not list(tmp_path.glob(".unfinished*"))


def test_ctrl_c_in_the_middle_leaves_an_earlier_file_as_it_was(inside, trained_run, questions, tmp_path, monkeypatch):
    from handloom.evaluation import multiple_choice

    def interrupted(items, told):
        told(next(iter(items)))
        raise KeyboardInterrupt

    monkeypatch.setattr(multiple_choice, "add_up", interrupted)
    (tmp_path / "out.jsonl").write_text("earlier", encoding="utf-8")
    done = inside("evaluate", trained_run, "--data", "q.jsonl", "--items", "out.jsonl")
    assert done.returncode == 130
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "earlier"
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.parametrize(
    "words",
    [
        ("--out", "poem.txt", "--data", "poem.txt"),
        ("--out", "poem.txt", "--data", "*.txt"),
        ("--json", "poem.txt", "--general", "poem.txt"),
        ("--json", "poem.txt", "--training", "poem.txt"),
        ("--json", "prompts.lst", "--prompts", "prompts.lst"),
        ("--json", "runs/summary.json"),
        ("--out", "same.html", "--json", "same.html"),
        ("--out", "same.html", "--json", "./same.html"),
    ],
)
def test_compare_never_writes_over_what_it_reads_or_has_just_written(inside, trained_run, words, tmp_path):
    (tmp_path / "runs").symlink_to(trained_run)
    (tmp_path / "poem.txt").write_text("The river stands still.\n" * 20, encoding="utf-8")
    (tmp_path / "prompts.lst").write_text("The\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = inside("compare", "runs", trained_run, *words)
    assert done.returncode == 2
    assert "is not written over" in done.err or "--out and --json both name" in done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
