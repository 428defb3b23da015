"""docs/errors.md is what really happens: every row of it is run here, and every refusal of a model has a row.

    python tests/cli/test_errors.py --write

writes it again.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))  # where pytest finds what all tests share

import bad_commands
import bad_inputs
import bad_models
import bad_paths
import bad_records
import bad_storage
import bad_text
import bad_tokens
import bad_training
import foreign_adapters
import foreign_checkpoints
import foreign_models
import foreign_pulls
import foreign_tokenizers
from bad_inputs import BadInput, CannotMountError, build_world, normalized, words_of

from handloom.checkpoints.families.gpt2 import GPT2
from handloom.errors import HandloomError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
HEAD = """# Bad inputs and their messages

Every error is one paragraph on standard error: what, where, the limit, and what to do about it. The exit
code is 2. With `--debug` the same command shows a traceback as well.

Each row is run by `tests/cli/test_errors.py`, which compares the message with this page to the letter;
`python tests/cli/test_errors.py --write` writes the page again. KEY stands for the hash of something, N for a
number that depends on the machine. `runs/demo` is a run of four steps with a context of 16 tokens, `cache` is
the cache folder, and `disk` is a disk of its own, full or not to be written.

| What | Command | Message |
| --- | --- | --- |
"""
HEAD_ELSEWHERE = """
## Models from elsewhere

`theirs` is a folder that somebody else has filled: a GPT-2 of two layers, 8 wide, with 280 ids and a context of
16; a tokenizer; or a checkpoint of Handloom's own. `models` is the models folder, HUB the address of a hub, and
REASON what the system or another library says. A file that wants to run something is never given the chance.

Every refusal that stands in the code that reads and pulls models has a row, but for a few that no command can
show; the test compares the code with this table and knows the few.

| What | Command | Message |
| --- | --- | --- |
"""
CASES = [
    *bad_inputs.CASES,
    *bad_paths.CASES,
    *bad_text.CASES,
    *bad_training.CASES,
    *bad_records.CASES,
    *bad_commands.CASES,
    *bad_storage.CASES,
]
ELSEWHERE = (
    foreign_models.CASES
    + foreign_tokenizers.CASES
    + bad_tokens.CASES
    + foreign_checkpoints.CASES
    + foreign_adapters.CASES
    + bad_models.CASES
    + foreign_pulls.CASES
)

READERS = (
    "loading",
    "checkpoints.formats",
    "checkpoints.gguf_import",
    "checkpoints.hf_config",
    "checkpoints.hf_folder",
    "checkpoints.hf_tokenizer",
    "checkpoints.hf_weights",
    "checkpoints.native",
    "checkpoints.safetensors_io",
    "checkpoints.peft",
    "checkpoints.hub",
    "checkpoints.nanogpt",
    "checkpoints.model_store",
    "checkpoints.pull",
    "locks",
    "ownership",
    "tokenizer",
    "tokenizer.vocab_files",
    "tokenizer.hf_settings",
    "tokenizer.hf_files",
    "tokenizer.gpt2",
)
"""The modules whose every refusal has a row."""

WITHOUT_A_ROW = {
    ("loading", "cannot be read"): "a name longer than a row; tests/inference/test_loading.py has one",
    ("checkpoints.native", "There is no checkpoint at"): "commands look whether it is there before they open it",
    (
        "checkpoints.model_store",
        "is not the name of a model",
    ): "no command line can hold such a name; test_hub.py has some",
    ("tokenizer.vocab_files", "cannot be saved"): "writes; tests/tokenizer/test_tokenizer_files.py has it",
}
"""Refusals (the module, and words of the statement) that have none, and why."""


def row(case: BadInput, message: str) -> str:
    cells = (case.what, code(case.command), code(message))
    return "| " + " | ".join(" ".join(cell.replace("|", r"\|").split("\n")) for cell in cells) + " |"


def code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


class Place(NamedTuple):
    """A line of a source file."""

    file: str
    line: int


@dataclass
class Outcome:
    """What a case came to."""

    exit_code: int
    out: str
    err: str
    """Normalized."""
    refused_at: set[Place] = field(default_factory=set)
    """Where errors were made, with all that had called there."""


def happens(case: BadInput, world: Path | None, folder: Path) -> Outcome:
    """Run a case in a copy of the world, or in an empty folder."""
    from handloom.cli.main import main

    words, piped = words_of(case.command)
    if world is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(world, folder, dirs_exist_ok=True)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(folder)
        patch.setenv("HANDLOOM_CACHE", "cache")
        patch.setenv("HANDLOOM_MODELS", "models")
        patch.setenv("COLUMNS", "80")
        if piped is not None:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        undo = stack.enter_context(ExitStack())
        case.before(undo)
        out, err = stack.enter_context(redirect_stdout(io.StringIO())), io.StringIO()
        stack.enter_context(redirect_stderr(err))
        places = watched(patch)
        try:
            main(words)
        except SystemExit as left:
            assert not foreign_models.CRATER.exists(), "a pickle was obeyed"
            return Outcome(
                int(left.code), out.getvalue(), normalized(err.getvalue().replace(f"{folder}{os.sep}", "")), places
            )


def watched(patch: pytest.MonkeyPatch) -> set[Place]:
    """From now on, the places at which errors of ours are made."""
    places: set[Place] = set()
    plain = HandloomError.__init__

    def noticed(self, *told, **setting):
        frame = sys._getframe(1)
        while frame is not None:
            places.add(Place(frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        plain(self, *told, **setting)

    patch.setattr(HandloomError, "__init__", noticed)
    return places


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDLOOM_CACHE", str(folder / "cache"))
        build_world(folder)
    return folder


@pytest.fixture(scope="session")
def outcome_of(world, tmp_path_factory):
    """Runs a case, once in a session. CannotMountError: it cannot be run here."""
    known: dict[int, Outcome | CannotMountError] = {}

    def run(case: BadInput) -> Outcome:
        if id(case) not in known:
            folder = tmp_path_factory.mktemp("case") / "here"
            try:
                known[id(case)] = happens(case, world if case in CASES else None, folder)
            except CannotMountError as error:
                known[id(case)] = error
            else:
                assert str(folder.parent) not in known[id(case)].err
        found = known[id(case)]
        if isinstance(found, CannotMountError):
            raise found
        return found

    return run


@pytest.mark.parametrize("case", CASES + ELSEWHERE, ids=lambda case: case.what)
def test_the_message_is_the_one_in_the_document(case, outcome_of):
    try:
        found = outcome_of(case)
    except CannotMountError:
        pytest.skip("mounting a small disk is not allowed here")
    assert found.exit_code == 2
    assert found.err.startswith("Error: ")
    assert "\n" not in found.err, "more than one paragraph"
    assert row(case, found.err.removeprefix("Error: ")) in DOCUMENT.read_text(encoding="utf-8").splitlines()
    if case.command.startswith("handloom generate"):
        assert found.out == ""


def test_the_document_has_one_row_for_each_case_and_no_other():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    here, _, elsewhere = text.removeprefix(HEAD).partition(HEAD_ELSEWHERE)
    for table, cases in ((here, CASES), (elsewhere, ELSEWHERE)):
        shown = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()]
        assert shown == [case.what for case in cases]
        assert len(set(shown)) == len(shown)


# Every refusal has a row


class Refusal(NamedTuple):
    """A statement that makes an error of ours."""

    module: str
    source: str
    file: str
    first: int
    last: int

    @property
    def without_a_row(self) -> set[tuple[str, str]]:
        """The keys of `WITHOUT_A_ROW` that mean it."""
        return {key for key in WITHOUT_A_ROW if key[0] == self.module and key[1] in self.source}


def refusals(module: str) -> Iterator[Refusal]:
    """Every statement of a module that raises or returns an error of ours."""
    file = importlib.import_module(f"handloom.{module}").__file__
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.Raise, ast.Return)):
            continue
        made = node.exc if isinstance(node, ast.Raise) else node.value
        if not isinstance(made, ast.Call):  # an error that was made elsewhere goes on
            continue
        name = ast.unparse(made.func).split(".")[-1]
        if not hasattr(builtins, name) and (isinstance(node, ast.Raise) or name.endswith("Error")):
            yield Refusal(module, ast.unparse(node), file, node.lineno, node.end_lineno)


def test_every_refusal_of_a_model_has_a_row(outcome_of):
    """A row whose case makes the error at that very statement, or an entry in `WITHOUT_A_ROW`; never both."""
    passed: set[Place] = set()
    unmounted = False
    for case in CASES + ELSEWHERE:
        try:
            passed |= outcome_of(case).refused_at
        except CannotMountError:
            unmounted = True
    found = [refusal for module in READERS for refusal in refusals(module)]
    missed = [
        refusal
        for refusal in found
        if not any(Place(refusal.file, line) in passed for line in range(refusal.first, refusal.last + 1))
    ]
    if unmounted and not all(refusal.without_a_row for refusal in missed):
        pytest.skip("mounting a small disk is not allowed here")
    assert [f"{r.module}, line {r.first}" for r in missed if not r.without_a_row] == []
    assert sorted(key for refusal in missed for key in refusal.without_a_row) == sorted(WITHOUT_A_ROW)
    assert len(found) > 70


def test_every_refused_key_has_a_row():
    shown = DOCUMENT.read_text(encoding="utf-8")
    for key, why in GPT2.keys.refused.items():
        assert f"theirs/config.json: {key} is " in shown
        assert why in shown


def write() -> None:
    """Run every case and write the document; a row that cannot be run here stays as it is."""
    known = DOCUMENT.read_text(encoding="utf-8").splitlines() if DOCUMENT.exists() else []
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(temporary, "world")
        os.environ["HANDLOOM_CACHE"] = str(world / "cache")
        os.environ |= {"HOME": temporary, "HANDLOOM_PRECISION": "fp32"}  # as tests/conftest.py has it
        build_world(world)
        tables: list[list[str]] = []
        for cases in (CASES, ELSEWHERE):
            lines = []
            for number, case in enumerate(cases):
                try:
                    folder = Path(temporary, f"{len(tables)}-{number}")
                    found = happens(case, world if cases is CASES else None, folder)
                    lines.append(row(case, found.err.removeprefix("Error: ")) + "\n")
                except CannotMountError:
                    lines += [line + "\n" for line in known if line.startswith(f"| {case.what} |")]
            tables.append(lines)
    here, elsewhere = map("".join, tables)
    DOCUMENT.write_text(HEAD + here + HEAD_ELSEWHERE + elsewhere, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/cli/test_errors.py --write")
    write()
