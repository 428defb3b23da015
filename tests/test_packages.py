"""A package that is missing or broken is told in one sentence, with what to type."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handloom.packages import import_failure

BROKEN = {
    "missing": ("", "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"),
    "a library that is not there": ("--force-reinstall ", "raise OSError('libtorch_cpu.so: no such file')"),
    "a library of another build": ("--force-reinstall ", "raise ImportError('torch/_C.so: undefined symbol: _Z1')"),
}
COMMANDS = [
    "train --data t.txt --run r", "finetune --model m --data t.txt --run r", "demo", "generate Hi --model m", "chat m",
    "classify Hi --model m", "export m n --to hf", "evaluate m --data t.txt", "lm-eval m --tasks x", "verify m",
    "compare a b", "model show m/x",
]  # fmt: skip


@pytest.fixture
def without_torch(tmp_path):
    """Run Python with a torch that fails as given; no test waits for the real one."""

    def run(fault, *words):
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / "torch.py").write_text(fault + "\n", encoding="utf-8")
        (tmp_path / "t.txt").write_text("A text.\n", encoding="utf-8")
        variables = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "COLUMNS": "80"}
        return subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, env=variables
        )

    return run


@pytest.mark.parametrize("kind", BROKEN)
def test_every_command_that_needs_torch_says_so_in_a_sentence(without_torch, kind):
    """All commands in one process: each imports its own modules, which fail before they are kept."""
    force, fault = BROKEN[kind]
    script = (
        "import sys\nfrom handloom.cli.main import main\n"
        f"for command in {COMMANDS!r}:\n"
        "    try:\n        main(command.split())\n"
        "    except SystemExit as left:\n        print(left.code, command, flush=True)\n"
    )
    done = without_torch(fault, "-c", script)
    assert done.stdout.splitlines() == [f"2 {command}" for command in COMMANDS]
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(COMMANDS)
    for line in lines:
        assert line.startswith("Error: Handloom needs the package torch, which ")
        assert f"python -m pip install {force}'torch<2.15,>=2.13' --index-url https://" in line


def test_the_commands_that_need_no_torch_work_without(without_torch):
    done = without_torch(BROKEN["missing"][1], "-m", "handloom", "tokenize", "Hello", "--json")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_caller_in_python_gets_a_typed_error(without_torch):
    script = "import handloom\ntry: handloom.load('m')\nexcept handloom.HandloomError as error: print(error.problem)"
    done = without_torch(BROKEN["a library that is not there"][1], "-c", script)
    assert done.stdout == ("Handloom needs the package torch, which does not load (libtorch_cpu.so: no such file).\n")


@pytest.mark.parametrize("name", ["gguf", "lm_eval", "psutil.sub", "numpy", "no_such_package"])
def test_any_package_that_is_missing_is_named_with_its_versions(name):
    package = name.partition(".")[0]
    told = import_failure(ModuleNotFoundError("No module named x", name=name), "This")
    assert told.problem == f"This needs the package {package}, which is not installed."
    assert f"python -m pip install {package}" in told.remedy.replace("'", "")
    assert (">=" in told.remedy) == (package in ("psutil", "numpy"))


def test_what_is_no_failure_of_an_import_is_left_alone():
    with pytest.raises(FileNotFoundError) as caught:
        Path("/no/such/file").read_bytes()
    assert import_failure(caught.value) is None
    assert import_failure(ModuleNotFoundError("x", name="handloom.nothing")) is None
    assert import_failure(ImportError("cannot import name 'x' from 'handloom'")) is None
