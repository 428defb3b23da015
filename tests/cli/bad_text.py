"""Text and folders that cannot be learned from as they are: rows of docs/errors.md."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from bad_inputs import TINY, BadInput


def questions(undo: ExitStack) -> None:
    """Two questions without answers, with answers of their own, and of a kind that holds its answers."""
    asked = {"goal": "Open a jar", "sol1": "Turn it.", "sol2": "Eat it."}
    key = {"question": "Wet?", "choices": {"text": ["sand", "water"], "label": ["A", "B"]}, "answerKey": "B"}
    files = {"two.jsonl": [asked, asked], "own.jsonl": [{**asked, "label": 0}], "keys.jsonl": [key]}
    for name, records in files.items():
        Path(name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    Path("five.lst").write_text("0\n1\n1\n0\n1\n", encoding="utf-8")
    Path("one.lst").write_text("1\n", encoding="utf-8")


def repetition(undo: ExitStack) -> None:
    """A megabyte and a half that comes to next to nothing."""
    Path("aaa.txt").write_text("a" * 1_500_000, encoding="utf-8")
    Path("same.jsonl").write_text('{"text": "The quick brown fox."}\n' * 300, encoding="utf-8")


def evaluate(files: str) -> str:
    """A command that measures runs/demo on questions."""
    return f"handloom evaluate runs/demo --data {files}"


CASES = [
    BadInput("A run folder as data", "handloom train --data runs/demo --run runs/new"),
    BadInput("A folder that holds nothing but runs", "handloom train --data runs --run runs/new"),
    BadInput("A text that only repeats itself", f"handloom train --data aaa.txt {TINY}--run runs/new", repetition),
    BadInput(
        "Documents that are all the same",
        "handloom train --data same.jsonl --tokenizer gpt2 --run runs/new",
        repetition,
    ),
    BadInput("A separator of documents that is not a line", "handloom train --data fox.txt --document-separator ' '"),
    BadInput("More labels than questions", evaluate("two.jsonl --labels five.lst"), questions),
    BadInput("Labels that contradict the answers", evaluate("own.jsonl --labels one.lst"), questions),
    BadInput("Labels that would not be used", evaluate("keys.jsonl --labels one.lst"), questions),
]
