"""README says what is so: its commands exist, and those that replace the original's are run, in their order."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from handloom.cli.main import app, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HISTORY = (ROOT / "docs" / "history.md").read_text(encoding="utf-8")
TABLE = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in HISTORY.partition("## The original's commands")[2].splitlines()
    if line.startswith("| ") and not line.startswith(("| There", "| ---"))
]
SMALLER = {
    "train": "--steps 2 --layers 1 --heads 2 --embed-dim 16 --vocab-size 300 --threads 1 --sample-tokens 4",
    "finetune": "--steps 2 --batch-size 2 --context-length 32 --threads 1 --sample-tokens 4",
    "generate": "--threads 1",
    "compare": "--max-new-tokens 8 --n 1 --text-bytes 2000 --threads 1",
    "pull": "",
}
"""What the test adds to a command, so that it takes a second."""

ORIGINAL = ("training.test", "training.train`", "training.train_gpt2_finetune", "--use_gpt2 --top_p", "--finetuned")


def words_of(cell):
    """The command in a cell."""
    (command,) = re.findall(r"`([^`]+)`", cell)
    return shlex.split(command)


def run(*words):
    """A command in this process: exit code, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as left:
            return left.code or 0, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def small_gpt2(folder):
    """What stands for GPT-2: its vocabulary and format, a small shape, and weights of no meaning."""
    from handloom.checkpoints.hf_export import export_folder
    from handloom.model.config import GPTConfig
    from handloom.model.gpt import GPT
    from handloom.tokenizer import load_tokenizer

    shape = GPTConfig(context_length=256, layers=2, heads=2, embed_dim=16)
    export_folder(folder, GPT(shape), load_tokenizer("gpt2"), overwrite=True)


def test_every_command_of_the_original_has_its_row():
    theirs = " ".join(row[0] for row in TABLE)
    for name in ORIGINAL:
        assert name in theirs
    assert len(TABLE) == 9


def test_what_replaces_the_originals_commands_works_in_this_order(tmp_path, monkeypatch, hub):
    """`make` targets are looked up; all else is run as it stands, with a few settings that make it small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    threads = torch.get_num_threads()
    texts = tmp_path / "my_texts"
    texts.mkdir()
    for number in range(12):
        lines = "\n".join(f"Learning is line {number} of thread {line}, over and under." for line in range(30))
        (texts / f"{number}.txt").write_text(lines, encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for _, here in TABLE:
        program, command, *rest = words_of(here)
        if program == "make":
            assert re.search(rf"^{command}:", makefile, re.MULTILINE), command
            continue
        assert program == "handloom"
        code, out, err = run(command, *rest, *shlex.split(SMALLER[command]))
        assert code == 0, f"{here}: {err}"
        assert out
        if command == "pull":
            shutil.rmtree(tmp_path / "models" / "gpt2")
            small_gpt2(tmp_path / "models" / "gpt2")  # of a shape that can take the prompts
    torch.set_num_threads(threads)
    assert (tmp_path / "compare.html").is_file()


def fenced(kind):
    return [line for block in re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("line", [line for line in fenced("sh") if line.startswith(".venv/bin/handloom")])
def test_the_commands_that_are_shown_exist(line):
    plain = line.partition("  #")[0].replace(".venv/bin/", "")
    for command in plain.split("&&"):
        program, *words = shlex.split(command)
        assert program == "handloom"
        app.parse_args(words, exit_on_error=False, print_error=False)


def test_links_and_files_that_are_named_are_there():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_lines_that_are_shown_fit_a_page():
    assert max(map(len, fenced("sh"))) <= 120
    assert sys.version_info >= (3, 10)
