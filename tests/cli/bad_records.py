"""Files of records that cannot be read, or would be learned as what they are not: rows of docs/errors.md."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest import mock

from bad_inputs import BadInput, tune

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SYSTEM = {"role": "system", "content": "b"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}
PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "cat.png"}}]}


def _write(name: str, *records: object):
    def before(undo: ExitStack) -> None:
        lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")

    return before


def _without(package: str, name: str, undo: ExitStack) -> None:
    Path(name).write_bytes(b"\x28\xb5\x2f\xfd")
    undo.enter_context(mock.patch.dict(sys.modules, {package: None}))


def _text(what: str, name: str, *records: object, flags: str = "") -> BadInput:
    return BadInput(what, f"handloom data prepare --data {name}{flags}", _write(name, *records))


def _tuned(what: str, name: str, *records: object, task: str = "sft") -> BadInput:
    return BadInput(what, tune(task, name), _write(name, *records))


CASES = [
    # The file
    _text("JSON under the name of a text", "posts.txt", {"text": "one"}, {"text": "two"}),
    BadInput("JSON through a pipe", """printf '{"text": "one"}' | handloom data prepare --data -"""),
    _text("JSON without the field of its text", "tree.json", {"name": "handloom", "files": []}),
    _text("A list that is not closed", "cut.json", '[{"text": "one"},', '{"text": "two"}'),
    _text("A field given twice", "both.jsonl", '{"text": "one", "text": "two"}'),
    _text("Objects that span lines", "wide.jsonl", "{", '"text": "one"', "}"),
    _text("A row of another length", "rows.csv", "text,id", "one,1", "one, two,2"),
    _text("A quote left open", "open.csv", "text,id", '"one,1'),
    _text("Two columns of one name", "twice.csv", "text,text", "one,two"),
    _text("A column that is not there", "posts.tsv", "body\tid", "one\t1"),
    BadInput(
        "A file packed under another name",
        "handloom data prepare --data packed.jsonl",
        lambda undo: Path("packed.jsonl").write_bytes(b"\x1f\x8b\x08"),
    ),
    BadInput(
        "Half a file of Parquet",
        "handloom data prepare --data half.parquet",
        lambda undo: Path("half.parquet").write_bytes(b"PAR1"),
    ),
    BadInput(
        "Parquet within another file",
        "handloom data prepare --data rows.parquet.zst",
        lambda undo: Path("rows.parquet.zst").write_bytes(b"PAR1"),
    ),
    BadInput(
        "Parquet without pyarrow",
        "handloom data prepare --data rows.parquet",
        partial(_without, "pyarrow", "rows.parquet"),
    ),
    *(
        [
            BadInput(
                "zstd without zstandard",
                "handloom data prepare --data posts.jsonl.zst",
                partial(_without, "zstandard", "posts.jsonl.zst"),
            )
        ]
        if sys.version_info < (3, 14)
        else []
    ),
    BadInput(
        "A field of records where there are none", "handloom train --data fox.txt --text-field body --run runs/new"
    ),
    BadInput(
        "A field of running text for examples", tune("sft", "hi.jsonl --text-field body")
    ),
    # The record
    _tuned("An input that is not text", "input.jsonl", {"instruction": "Add.", "input": 0, "output": "6"}),
    _tuned("A history of another form", "history.jsonl", {"history": ["Hi"], "instruction": "a", "output": "b"}),
    _tuned("Two systems that differ", "systems.jsonl", {"system": "a", "messages": [SYSTEM, *TURNS]}),
    _tuned("Tools next to messages", "tools.jsonl", {"messages": TURNS, "tools": [{"type": "function"}]}),
    _tuned("Two examples in one", "both.jsonl", {"messages": TURNS, "context": "A greeting."}),
    _tuned("A call of a tool", "call.jsonl", {"messages": [*TURNS, TURNS[0], CALL]}),
    _tuned("A turn of a tool", "tool.jsonl", {"messages": [TURNS[0], {"from": "observation", "value": "{}"}]}),
    _tuned("A message without its text", "said.jsonl", {"conversations": [{"from": "human"}]}),
    _tuned("A picture", "picture.jsonl", {"messages": [PICTURE, TURNS[1]]}),
    _tuned("Answers in two forms", "forms.jsonl", {"prompt": "Hi", "chosen": "a", "rejected": TURNS}, task="dpo"),
]  # fmt: skip
