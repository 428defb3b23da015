"""docs/errors.md is what really happens: every row of it is run here.

    python tests/cli/test_errors.py --write

writes it again.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from bad_inputs import CASES, BadInput, CannotMountError, build_world, normalized, words_of

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
HEAD = """# Bad inputs, and what they are told

Every error is one paragraph on standard error: what, where, the limit, and what to do about it. The exit
code is 2. With `--debug` the same command shows a traceback as well.

Each row is run by `tests/cli/test_errors.py`, which compares the message with this page to the letter;
`python tests/cli/test_errors.py --write` writes the page again. KEY stands for the hash of something, N for a
number that depends on the machine. `runs/demo` is a run of four steps with a context of 16 tokens, `cache` is
the cache folder, and `disk` is a disk of its own, full or not to be written.

| What | Command | Message |
| --- | --- | --- |
"""


def row(case: BadInput, message: str) -> str:
    cells = (case.what, code(case.command), code(message))
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def happens(case: BadInput, world: Path, folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and normalized standard error of a case, in a copy of the world."""
    from handloom.cli.main import main

    words, piped = words_of(case.command)
    shutil.copytree(world, folder, dirs_exist_ok=True)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(folder)
        patch.setenv("HANDLOOM_CACHE", "cache")
        patch.setenv("COLUMNS", "80")
        if piped is not None:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        undo = stack.enter_context(ExitStack())
        case.before(undo)
        out, err = stack.enter_context(redirect_stdout(io.StringIO())), io.StringIO()
        stack.enter_context(redirect_stderr(err))
        try:
            main(words)
        except SystemExit as left:
            return int(left.code), out.getvalue(), normalized(err.getvalue())


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDLOOM_CACHE", str(folder / "cache"))
        build_world(folder)
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_the_message_is_the_one_in_the_document(case, world, tmp_path):
    try:
        exit_code, out, err = happens(case, world, tmp_path / "here")
    except CannotMountError:
        pytest.skip("mounting a small disk is not allowed here")
    assert exit_code == 2
    assert err.startswith("Error: ")
    assert "\n" not in err, "more than one paragraph"
    assert str(tmp_path) not in err
    assert row(case, err.removeprefix("Error: ")) in DOCUMENT.read_text(encoding="utf-8").splitlines()
    if case.command.startswith("handloom generate"):
        assert out == ""


def test_the_document_has_one_row_for_each_case_and_no_other():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    shown = [line.split(" | ")[0].removeprefix("| ") for line in text.removeprefix(HEAD).splitlines()]
    assert shown == [case.what for case in CASES]


def write() -> None:
    """Run every case and write the document; a row that cannot be run here stays as it is."""
    known = DOCUMENT.read_text(encoding="utf-8").splitlines() if DOCUMENT.exists() else []
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(temporary, "world")
        os.environ["HANDLOOM_CACHE"] = str(world / "cache")
        build_world(world)
        lines = []
        for number, case in enumerate(CASES):
            try:
                _, _, err = happens(case, world, Path(temporary, str(number)))
                lines.append(row(case, err.removeprefix("Error: ")))
            except CannotMountError:
                lines += [line for line in known if line.startswith(f"| {case.what} |")]
    DOCUMENT.write_text(HEAD + "".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/cli/test_errors.py --write")
    write()
