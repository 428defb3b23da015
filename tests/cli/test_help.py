"""Help is quick, because it imports nothing heavy, and fits the screen."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import handloom as package
from handloom.cli.main import COMMANDS, app
from handloom.training.config import FinetuneConfig, TrainConfig

HEAVY = ("torch", "numpy", "matplotlib", "tiktoken", "safetensors", "regex")
SCRIPT = """
import sys
from handloom.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    code = left.code
print("IMPORTED", code, sorted({names} & set(sys.modules)))
"""


def walk(above=()):
    """Every command and subcommand, as a tuple of words."""
    yield above
    node = app
    for word in above:
        node = node[word]
    for name in node:
        if not name.startswith("-"):
            yield from walk((*above, name))


EVERY = list(walk())


def test_the_walk_finds_them_all():
    assert {words[0] for words in EVERY if words} == set(COMMANDS)
    assert {("data", "check"), ("data", "prepare"), ("data", "show"), ("model", "show"), ("model", "list")} <= set(
        EVERY
    )


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_is_light_and_80_columns_wide(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    script = SCRIPT.replace("{names}", repr(set(HEAVY)))
    result = subprocess.run(
        [sys.executable, "-c", script, *words, "--help"], capture_output=True, text=True, encoding="utf-8"
    )
    assert result.stderr == ""
    *lines, last = result.stdout.splitlines()
    assert last == "IMPORTED 0 []"
    assert f"Usage: {' '.join(('handloom', *words))}" in result.stdout
    assert max(map(len, lines)) <= 80
    told = result.stdout
    for meant in ("--no-repeat-ngram-size", "--no-cache-activations", "--no-pack"):
        told = told.replace(meant, "")
    for odd in ("--no-", "--empty", "[default: False]", "[default: None]", "[default: ]", "None:", "Flags("):
        assert odd not in told


@pytest.mark.parametrize(("command", "kind"), [("train", TrainConfig), ("finetune", FinetuneConfig)])
def test_every_setting_of_a_run_is_a_flag(command, kind, handloom):
    told = handloom(command, "--help").out
    for field in fields(kind):
        assert f"--{field.name.replace('_', '-')} " in told


def test_no_command_at_all_prints_help(handloom):
    result = handloom()
    assert result.returncode == 0
    assert result.out == handloom("--help").out
    for name, (_, meaning) in COMMANDS.items():
        assert name in result.out
        assert meaning in result.out


def test_version(handloom):
    assert handloom("--version").out == f"{package.__version__}\n"


def test_the_timed_benchmark_knows_every_command():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "help_time.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    timed = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMANDS"
    )
    assert {tuple(name.split()) for name in timed} == set(EVERY)
