"""Runs a note of the course: its snippets, its commands, and the numbers in its prose.

The convention is written down in notes/README.md:

    ```python       runs; all snippets of one note share one namespace
    ```sh           handloom commands, run one after another; without an output they only have to succeed
    ```sh long      commands that take long: only looked at (flags parse, make targets exist)
    ```text         right behind python or sh: exactly what it prints
    ```             a drawing; its decimal numbers must stand in an output of the note

    <!-- check: expression == 42 -->    evaluated in the namespace; 42 must stand in the same paragraph
    <!-- given: 4096, 11.5 -->          numbers that an exercise makes up; they must stand there too

A number in prose with a decimal point or three digits and more needs one of these in its paragraph, or
must stand in an output of the note. Years are free.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import traceback
from dataclasses import dataclass
from typing import Any

GIVEN = re.compile(r"<!--\s*given:\s*(.*?)\s*-->", re.DOTALL)
CHECK = re.compile(r"<!--\s*check:\s*(.*?)\s*-->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.,/-])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w/])")
FREE_COMMANDS = (".", "cd", "git", "mkdir", "python")
WIDEST = 80


class NoteError(AssertionError):
    """A note that says something that is not so."""


@dataclass(frozen=True)
class Block:
    """A paragraph (kind `prose`) or a fence (kind is what stands behind its backticks)."""

    kind: str
    text: str
    line: int  # of the first line of the text, from 1

    @property
    def runs(self) -> bool:
        return self.kind in ("python", "sh")

    @property
    def checks(self) -> list[str]:
        return CHECK.findall(self.text) if self.kind == "prose" else []

    @property
    def visible(self) -> str:
        """What a reader sees: without comments, and without the targets of links."""
        return re.sub(r"\]\([^)]*\)", "]", re.sub(r"<!--.*?-->", "", self.text, flags=re.DOTALL))


def blocks(markdown: str) -> list[Block]:
    """Cut a note into paragraphs and fences, in order."""
    found: list[Block] = []
    kind, start, lines = "prose", 1, list[str]()

    def close() -> None:
        if kind != "prose" or any(line.strip() for line in lines):
            found.append(Block(kind, "".join(line + "\n" for line in lines), start))

    for number, line in enumerate(markdown.splitlines(), start=1):
        fence = re.fullmatch(r"```(.*)", line)
        if fence and kind == "prose":
            close()
            kind, start, lines = fence[1].strip() or "drawing", number + 1, []
        elif fence and not fence[1]:
            close()
            kind, start, lines = "prose", number + 1, []
        elif kind == "prose" and not line.strip():
            close()
            start, lines = number + 1, []
        else:
            lines.append(line)
    if kind != "prose":
        raise NoteError(f"line {start}: a fence that does not end")
    close()
    return found


def numbers(text: str) -> set[float]:
    """Every number in a text."""
    return {float(word.rstrip(",").replace(",", "")) for word in NUMBER.findall(text)}


def notable(block: Block) -> list[str]:
    """The numbers of a paragraph that need something behind them."""
    words = (word.rstrip(",") for word in NUMBER.findall(block.visible))
    return [
        word
        for word in words
        if not re.fullmatch(r"(19|20)\d\d", word) and ("." in word or sum(map(str.isdigit, word)) >= 3)
    ]


def promised(check: str) -> list[Any]:
    """The constants on the right side of `expression == constants`, which a reader must see."""
    tree = ast.parse(check, mode="eval").body
    if not isinstance(tree, ast.Compare) or not isinstance(tree.ops[-1], ast.Eq):
        return []
    if not any(isinstance(node, ast.Constant) for node in ast.walk(tree.comparators[-1])):
        return []  # two values held against each other, neither of which the reader is told
    try:
        right = ast.literal_eval(ast.unparse(tree.comparators[-1]))
    except ValueError:
        raise NoteError(f"the check {check!r} must end in a plain value, as its paragraph says it") from None
    return list(right) if isinstance(right, tuple | list) else [right]


def faults(parsed: list[Block]) -> list[str]:
    """What can be seen to be wrong with a note before it is run."""
    found = []
    printed = set().union(*(numbers(block.text) for block in parsed if block.kind == "text"))
    for before, block in zip([None, *parsed], parsed, strict=False):
        here = f"line {block.line}"
        if block.kind == "prose":
            shown, backed = numbers(block.visible), set(printed)
            for check in block.checks:
                for value in promised(check):
                    if isinstance(value, str):
                        ok = value in " ".join(block.visible.split())
                        backed |= numbers(value)
                    else:
                        ok = value in shown
                        backed.add(float(value))
                    if not ok:
                        found.append(f"{here}: the paragraph does not say {value!r}, which its check does")
            for value in {number for given in GIVEN.findall(block.text) for number in numbers(given)}:
                backed.add(value)
                if value not in shown:
                    found.append(f"{here}: the paragraph does not say {value:g}, which is given")
            found += [
                f"{here}: nothing stands behind the number {word}"
                for word in notable(block)
                if float(word.replace(",", "")) not in backed
            ]
            continue
        if block.kind == "drawing":
            found += [
                f"{here}: no output has the number {word}, which is drawn"
                for word in notable(block)
                if "." in word and float(word) not in printed
            ]
        if block.kind not in ("python", "sh", "sh long", "text", "drawing"):
            found.append(f"{here}: a fence of an unknown kind, {block.kind!r}")
        if block.kind == "text" and not (before and before.runs):
            found.append(f"{here}: an output that belongs to no snippet")
        found += [f"{here}: wider than {WIDEST}" for line in block.text.splitlines() if len(line) > WIDEST]
    return found


def run(markdown: str, name: str = "note") -> None:
    """Run a whole note.

    Raises:
        NoteError: at the first thing that is not as the note says.
    """
    parsed = blocks(markdown)
    wrong = faults(parsed)
    if wrong:
        raise NoteError(f"{name}: " + "; ".join(wrong))
    namespace: dict[str, Any] = {"__name__": "note"}
    for i, block in enumerate(parsed):
        where = f"{name}, line {block.line}"
        if block.kind == "prose":
            for check in block.checks:
                _check(check, namespace, where)
        elif block.runs:
            printed = _python(block, namespace, name) if block.kind == "python" else _commands(block, where)
            follows = parsed[i + 1] if i + 1 < len(parsed) else None
            if follows and follows.kind == "text":
                expected = follows.text
            elif block.kind == "sh":
                continue
            else:
                expected = ""
            if _trimmed(printed) != _trimmed(expected):
                raise NoteError(f"{where} prints\n{printed}\nbut the note says\n{expected}")
        elif block.kind == "sh long":
            for words in _lines(block):
                look_at(words, where)


def look_at(words: list[str], where: str) -> None:
    """Check a command without running it: its flags parse, or its make target exists."""
    if words[0] == "handloom":
        from handloom.cli.main import app

        app.parse_args(words[1:], exit_on_error=False, print_error=False)
    elif words[0] == "make":
        from pathlib import Path

        makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
        for target in words[1:]:
            if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
                raise NoteError(f"{where}: the Makefile has no target {target}")
    elif words[0] not in FREE_COMMANDS:
        raise NoteError(f"{where}: {words[0]} is no command that a note may show")


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def _check(check: str, namespace: dict[str, Any], where: str) -> None:
    try:
        holds = eval(compile(check.strip(), where, "eval"), namespace)
    except Exception as error:
        raise NoteError(f"{where}: the check {check!r} fails with {error!r}") from error
    if not bool(holds):
        left = ast.parse(check.strip(), mode="eval").body
        value = eval(ast.unparse(left.left), namespace) if isinstance(left, ast.Compare) else holds
        raise NoteError(f"{where}: the check {check!r} does not hold; its left side is {value!r}")


def _python(block: Block, namespace: dict[str, Any], name: str) -> str:
    code = "\n" * (block.line - 1) + block.text  # so that a traceback names the note's own line
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            exec(compile(code, name, "exec"), namespace)
        except Exception as error:
            raise NoteError(f"{name}, line {block.line}:\n{traceback.format_exc()}") from error
    return printed.getvalue()


def _commands(block: Block, where: str) -> str:
    from handloom.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for words in _lines(block):
            if words[0] != "handloom":
                raise NoteError(f"{where}: only handloom commands are run, not {words[0]}")
            errors = io.StringIO()
            try:
                with contextlib.redirect_stderr(errors):
                    main(words[1:])
            except SystemExit as end:
                if end.code:
                    raise NoteError(f"{where}: {' '.join(words)}: {errors.getvalue()}") from None
    return printed.getvalue()


def _lines(block: Block) -> list[list[str]]:
    joined = block.text.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]
