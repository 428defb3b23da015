"""handloom evaluate: a page on a text, accuracies on questions, from a shell."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from handloom.cli.main import app
from handloom.evaluation.benchmarks import TASKS
from handloom.loading import load

FOX = "The quick brown fox jumps over the lazy dog. "
QUESTIONS = [
    {"context": "The quick brown", "choices": ["fox", "dog over"], "answer": "fox"},
    {"context": "The lazy", "choices": ["fox", "dog"], "answer": 1},
    {"context": "", "choices": ["The", "jumps"], "answer": 0},
]


@pytest.fixture
def fox(tmp_path):
    (tmp_path / "fox.txt").write_text(FOX * 8, encoding="utf-8")
    return "fox.txt"


@pytest.fixture
def questions(tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS), encoding="utf-8")
    return "q.jsonl"


def test_the_page_fits_the_screen_and_says_what_is_divided_by_what(inside, trained_run, fox, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = inside("evaluate", trained_run, "--data", fox)
    assert done.returncode == 0, done.err
    assert done.err == ""
    for told in ("exp(nats / tokens)", "exp(nats / words)", "bits / bytes", "stride 16", "stride 8"):
        assert told in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert "…" not in done.out
    assert f"{8 * len(FOX.split())}" in done.out


def test_json_holds_the_same_numbers(inside, trained_run, fox):
    done = inside("evaluate", trained_run, "--data", fox, "--json", "--stride", "16", "4")
    told = json.loads(done.out)
    wide, narrow = told["readings"]
    assert (wide["stride"], narrow["stride"]) == (16, 4)
    assert wide["bytes"] == len(FOX) * 8
    assert wide["words"] == len(FOX.split()) * 8
    assert wide["tokens"] == len(load(trained_run).tokenizer.encode(FOX * 8))
    assert narrow["read_before"] == 13
    assert told["convention"]["documents"] == "alone"
    assert wide["token_perplexity"] > 1


def test_a_benchmark_is_also_read_as_ordinary_text(inside, trained_run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "wiki.txt").write_text(
        " = Fox = \n \n It is 3 @.@ 5 years old , quick and lazy . \n" * 5, encoding="utf-8"
    )
    done = inside("evaluate", trained_run, "--data", "wiki.txt", "--detokenize", "wikitext")
    assert done.returncode == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "ordinary" in done.out
    assert "every line can be recovered" in " ".join(done.out.split())


def test_standard_input_and_a_limit(inside, trained_run, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"body": "The fox"}\n{"body": "The dog"}\n', encoding="utf-8")
    piped = inside("evaluate", trained_run, "--data", "-", "--json", "--documents", "joined", stdin=FOX.encode())
    assert json.loads(piped.out)["readings"][0]["bytes"] == len(FOX)
    few = inside("evaluate", trained_run, "--data", "t.jsonl", "--text-field", "body", "--limit", 1, "--json")
    assert json.loads(few.out)["readings"][0]["bytes"] == len("The fox")


def test_questions_are_answered_and_each_is_told(inside, trained_run, questions, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = inside("evaluate", trained_run, "--data", questions, "--items", "out.jsonl")
    assert done.returncode == 0, done.err
    assert "task choice: 3 items" in " ".join(done.out.split())
    assert "lm-eval acc_norm" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    told = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [one["answer"] for one in told] == [0, 1, 0]
    summed = json.loads(inside("evaluate", trained_run, "--data", questions, "--json").out)
    right = sum(one["picks"]["sum"] == one["answer"] for one in told)
    assert summed["accuracy"] == pytest.approx(right / 3)
    assert summed["task"] == "choice"
    few = json.loads(inside("evaluate", trained_run, "--data", questions, "--json", "--limit", 2).out)
    assert few["items"] == 2


def test_a_json_array_is_questions_and_never_measured_as_text(inside, trained_run, questions, tmp_path):
    (tmp_path / "q.JSON").write_text(json.dumps(QUESTIONS, indent=1), encoding="utf-8")
    told = [json.loads(inside("evaluate", trained_run, "--data", f, "--json").out) for f in (questions, "q.JSON")]
    assert told[0].pop("data") != told[1].pop("data")
    assert told[0] == told[1]
    assert told[0]["task"] == "choice"
    (tmp_path / "other.json").write_text('[{"name": "x"}]', encoding="utf-8")
    done = inside("evaluate", trained_run, "--data", "other.json")
    assert done.returncode == 2
    assert 'no field "text" (fields there: name)' in done.err


def test_files_that_are_not_measured_are_told(inside, trained_run, tmp_path):
    for name in ("a.txt", "b.rst"):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_text(FOX * 8, encoding="utf-8")
    done = inside("evaluate", trained_run, "--data", "texts", "--json")
    assert json.loads(done.out)["readings"][0]["bytes"] == len(FOX) * 8
    assert "Note: 1 file in a folder was left out for its suffix (1 .rst): texts/b.rst." in done.err


def test_a_cloze_has_to_be_named(inside, trained_run, tmp_path):
    (tmp_path / "l.jsonl").write_text('{"text": "The quick brown fox"}\n{"text": "The lazy dog"}\n', encoding="utf-8")
    text = json.loads(inside("evaluate", trained_run, "--data", "l.jsonl", "--json").out)
    assert "readings" in text
    cloze = json.loads(inside("evaluate", trained_run, "--data", "l.jsonl", "--task", "lambada", "--json").out)
    assert cloze["items"] == 2
    assert {"accuracy", "perplexity"} <= set(cloze)


def test_the_harness_is_reached_from_the_command_line(trained_run, tmp_path):
    """In a process of its own: the harness sets up logging, and reads its flags from the system."""
    pytest.importorskip("lm_eval")
    (tmp_path / "q.jsonl").write_text('{"text": "The quick brown fox"}\n' * 2, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: q.jsonl}}\ntest_split: test\n"
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]\n",
        encoding="utf-8",
    )
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "DISABLE_MULTIPROC"), "1")
    done = subprocess.run(
        [sys.executable, "-m", "handloom", "lm-eval", str(trained_run), "--tasks", "mine.yaml", "--device", "cpu"],
        cwd=tmp_path, capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, **offline, "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "bits_per_byte" in line]
    lm = load(trained_run)
    from handloom.data.corpus import open_corpus
    from handloom.evaluation.eval_text import PerplexityConvention
    from handloom.evaluation.perplexity import as_json, measure

    measured = measure(lm, open_corpus(tmp_path / "q.jsonl"), PerplexityConvention())
    assert f"{as_json(measured)['readings'][0]['bits_per_byte']:.4f}" in line


def test_every_command_in_the_document_is_one():
    text = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    commands = re.findall(r"`handloom (evaluate [^`]+)`", text) + re.findall(r"^handloom (evaluate .*)$", text, re.M)
    assert len(commands) >= 8
    for command in commands:
        words = shlex.split(command, comments=True)
        assert app.parse_args(words, exit_on_error=False, print_error=False)[0].__name__ == "evaluate"
    for task in TASKS:
        assert f"| `{task}` |" in text


def test_in_another_precision_the_numbers_are_near_and_the_precision_is_recorded(inside, trained_run, fox, questions):
    found = {}
    for precision in ("fp32", "int8"):
        words = ("evaluate", trained_run, "--precision", precision, "--threads", "1")
        result = inside(*words, "--data", fox, "--json")
        assert result.returncode == 0, result.err
        found[precision] = json.loads(result.out)
        assert found[precision]["precision"] == precision
        assert json.loads(inside(*words, "--data", questions, "--json").out)["precision"] == precision
    exact, rounded = (found[name]["readings"][0]["nats_per_token"] for name in ("fp32", "int8"))
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.01)
    page = inside("evaluate", trained_run, "--precision", "int8", "--data", fox).out
    assert " in int8 on fox.txt " in " ".join(page.split())
