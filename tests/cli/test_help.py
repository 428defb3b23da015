"""Help is quick, because it imports nothing heavy, and fits the screen."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import handloom as package
from handloom.cli.help import EXAMPLES, HEADINGS, describe, find_command
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
    told = result.stdout.replace("--no-repeat-ngram-size", "").replace("--no-chat-template", "")
    for odd in ("--no-", "--empty", "[default: False]", "[default: None]", "[default: ]", "None:", "Flags("):
        assert odd not in told


@pytest.mark.parametrize(("command", "kind"), [("train", TrainConfig), ("finetune", FinetuneConfig)])
def test_every_setting_of_a_run_is_a_flag(command, kind, handloom):
    told = handloom(command, "--help").out
    for field in fields(kind):
        name = field.name.replace("_", "-")
        assert f"--{name} " in told or f"--[no-]{name} " in told


def test_no_command_at_all_prints_help(handloom):
    result = handloom()
    assert result.returncode == 0
    assert result.out == handloom("--help").out
    for name, (_, meaning) in COMMANDS.items():
        assert name in result.out
        assert meaning in result.out
    assert re.findall(r"^\S.*\n  (\S+)", result.out, re.M)[:2] == ["demo", "train"]


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("train", ["--data", "--run", "--steps", "--minutes", "--preset"]),
        ("finetune", ["--model", "--data", "--task", "--method", "--run"]),
    ],
)
def test_the_most_important_flags_come_first(command, first, handloom):
    told = handloom(command, "--help").out
    assert re.findall(r"^  (--[\w-]+)", told, re.M)[: len(first)] == first
    shown = [heading for heading in HEADINGS if f"\n{heading}\n" in told]
    assert re.findall(r"\n\n(\S.*)\n  -", told) == shown
    assert {"Essentials", "Run", "Data", "Model", "Optimization", "Precision and threads", "Output"} <= set(shown)
    assert "Options" not in shown


def test_every_closed_set_shows_its_choices_and_every_default_is_spelled_alike(handloom):
    told = " ".join(handloom("finetune", "--help").out.split())
    for field in fields(FinetuneConfig):
        if choices := field.metadata["choices"]:
            assert f"[choices: {', '.join(choices)}] [default: {field.default}]" in told
    assert "[default: runs/ and the present time]" in told
    assert len(re.findall(r"\[default: [^\]]+\]", told)) == told.count("default: ")


def test_every_command_has_examples():
    assert set(EXAMPLES) == {" ".join(words) for words in EVERY if words}
    for words in EVERY:
        if words and find_command(app, words)[0].default_command is not None:
            assert 1 <= len(EXAMPLES[" ".join(words)]) <= 2


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_are_parsed_and_shown(line):
    program, *words = shlex.split(line)
    command, name = find_command(app, words)
    function, _, ignored = app.parse_args(words, exit_on_error=False, print_error=False)
    assert (program, function, ignored) == ("handloom", command.default_command, {})
    assert line in EXAMPLES[name]
    describe(app, words)
    assert f"Examples\n  {EXAMPLES[name][0]}" in command.help_epilogue
    assert len(line) < 79


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


@pytest.mark.parametrize(("given", "found"), [
    ({}, "None 2000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"), ({"GOMP_SPINCOUNT": "7"}, "None 7")
])  # fmt: skip
def test_a_command_limits_how_long_threads_spin_unless_the_user_did(given, found):
    script = (
        "import os, sys\nfrom handloom.cli.main import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n"
        "    print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
    )
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=clean | given)
    assert done.stdout.splitlines()[-1] == f"{found} False"
