"""Benchmark items from local files of records, in the formats in which the benchmarks are published.

Prompts are those of the evaluation harness (lm-evaluation-harness 0.4), since numbers are compared with its numbers.
Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from handloom.data.record_files import read_records
from handloom.data.schema import Record
from handloom.data.text_io import ReadOptions, form_of, read_text
from handloom.errors import DataError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NO_ANSWER = "Without answers nothing can be scored; if they are in another file, name it with `labels`."


@dataclass(frozen=True)
class BenchmarkItem:
    """Which of the choices continues the context? With one choice: would greedy decoding give it?"""

    where: str
    """File and line, for people."""
    context: str
    choices: tuple[str, ...]
    answer: int
    separator: str = " "
    """Between the context and a choice."""

    def continuation(self, choice: int) -> str:
        """A choice as it stands behind the context."""
        return self.separator + self.choices[choice]


def read_items(path: Path, task: str, labels: Path | None = None, limit: int | None = None) -> Iterator[BenchmarkItem]:
    """Stream the items of a file of records, the first `limit` of them.

    `task` is one of `TASKS`; `labels` a file with the answers, a number from 0 on each line, in the order of the items.
    Raises DataError, naming file and line, for what is not an item of that form.
    """
    answers = None if labels is None else _labels(labels, path, task)
    count = 0
    for count, found in enumerate(islice(read_records(path, ReadOptions()), limit), 1):
        record = _Item(found.fields, found.origin, found.options)
        if answers is not None:
            record = _with_label(record, task, answers[count - 1])
        item = TASKS[task](record)
        if not item.choices or not all(item.choices):
            raise record.error("a choice is empty")
        if not 0 <= item.answer < len(item.choices):
            raise record.error(f"the answer is number {item.answer} of {len(item.choices)} choices, counted from 0")
        yield item
    if not count:
        raise DataError(f"{path.as_posix()}: no items.", "Name a file with one record for each question.")


def detect(path: Path) -> str:
    """The task that the first record of a file belongs to, by its fields; `text` for anything else.

    LAMBADA's form is that of any text, so it is never detected.
    """
    if not path.is_file() or form_of(path) == "text":
        return "text"
    fields = {field for record in islice(read_records(path, ReadOptions()), 1) for field in record.fields}
    return next((task for task, needed in _DETECTED_BY.items() if needed <= fields), "text")


_DETECTED_BY = {
    "hellaswag": {"endings"},
    "arc": {"question", "answerKey"},
    "piqa": {"goal", "sol1", "sol2"},
    "choice": {"context", "choices"},
}


class _Item(Record):
    """A record of a benchmark: each field is of its type, or a DataError that names file and line."""

    def error(self, problem: str, remedy: str = "Fix or remove that line.") -> DataError:
        """The error for this record."""
        return self.refuse(f"{problem}.", remedy)

    def value(self, name: str) -> Any:
        """A field of any type."""
        remedy = _NO_ANSWER if name in ("label", "answer") else "Name the right `task` for this file."
        return self.require(name, remedy)

    def string(self, name: str) -> str:
        """A field that is a string."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.error(f'field "{name}" is a {type(value).__name__}, not a string')
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """A field that is a list of strings, with at least one."""
        value = self.value(name)
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise self.error(f'field "{name}" is not a list of strings')
        return tuple(value)

    def number(self, name: str) -> int:
        """The number of a choice, also where it is written as text."""
        value = self.value(name)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f'field "{name}" is {value!r}; it must be the number of a choice, from 0', _NO_ANSWER)
        return value

    def nested(self, value: Any) -> _Item:
        """An object within the record."""
        if not isinstance(value, dict):
            raise self.error(f"a JSON {type(value).__name__} where an object should be")
        return self.having(value)

    def having(self, fields: dict[str, Any]) -> _Item:
        """Other fields at the same place."""
        return _Item(fields, self.origin, self.options)

    def asks(self, context: str, choices: tuple[str, ...], answer: int, separator: str = " ") -> BenchmarkItem:
        """The item that the record becomes."""
        return BenchmarkItem(str(self.origin), context, choices, answer, separator=separator)


def _hellaswag(record: _Item) -> BenchmarkItem:
    """The activity before the context, and marks such as [title] removed everywhere."""
    if "ctx_a" in record.fields and "ctx_b" in record.fields:
        context = f"{record.string('ctx_a')} {record.string('ctx_b').capitalize()}"
    else:
        context = record.string("ctx")
    if "activity_label" in record.fields:
        context = f"{record.string('activity_label')}: {context}"
    endings = tuple(map(_without_marks, record.strings("endings")))
    return record.asks(_without_marks(context), endings, record.number("label"))


def _without_marks(text: str) -> str:
    """[title] ends a sentence; other brackets are left over from the page that the text was taken from."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[[^\]\n]*\]", "", text).replace("  ", " ")


def _arc(record: _Item) -> BenchmarkItem:
    """Both as it was published, and flat as on Hugging Face's hub."""
    question = record.fields.get("question")
    if isinstance(question, dict):
        nested = record.nested(question)
        stem, choices = nested.string("stem"), nested.value("choices")
        parts = [record.nested(choice) for choice in choices] if isinstance(choices, list) else []
        texts, names = tuple(part.string("text") for part in parts), tuple(part.string("label") for part in parts)
    else:
        stem, both = record.string("question"), record.nested(record.value("choices"))
        texts, names = both.strings("text"), both.strings("label")
    key = record.string("answerKey")
    if key not in names:
        raise record.error(f"the answerKey is {key!r}; the choices are called {', '.join(names) or 'nothing'}")
    return record.asks(f"Question: {stem}\nAnswer:", texts, names.index(key))


def _piqa(record: _Item) -> BenchmarkItem:
    context = f"Question: {record.string('goal')}\nAnswer:"
    return record.asks(context, (record.string("sol1"), record.string("sol2")), record.number("label"))


def _lambada(record: _Item) -> BenchmarkItem:
    """Everything up to the last space, and the word behind it."""
    context, _, word = record.string("text").rpartition(" ")
    return record.asks(context, (word,), 0)


def _choice(record: _Item) -> BenchmarkItem:
    """The answer as a number from 0, a letter, or the choice itself. White space that is there already counts."""
    context, choices, answer = record.string("context"), record.strings("choices"), record.value("answer")
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    elif isinstance(answer, str) and answer in _LETTERS[: len(choices)] and len(answer) == 1:
        answer = _LETTERS.index(answer)
    spaced = context[-1:].isspace() or all(choice[:1].isspace() for choice in choices)
    number = record.having({"answer": answer}).number("answer")
    return record.asks(context, choices, number, "" if spaced else " ")


TASKS: dict[str, Callable[[_Item], BenchmarkItem]] = {
    "hellaswag": _hellaswag,
    "hellaswag-plain": lambda item: item.asks(item.string("ctx"), item.strings("endings"), item.number("label")),
    "arc": _arc,
    "piqa": _piqa,
    "lambada": _lambada,
    "choice": _choice,
}
"""How a record becomes an item, by the name of the task."""


def _labels(path: Path, items: Path, task: str) -> list[int]:
    """The answers from a file of their own, one for each item."""
    name = path.as_posix()
    if task in ("arc", "lambada"):
        raise DataError(
            f"{name}: labels that would not be used, since items of {task} contain their answers.",
            "Leave `labels` out.",
            setting="labels",
        )
    lines = "".join(read_text(path, name, ReadOptions())).split()
    if wrong := next((line for line in lines if not line.isdecimal()), None):
        raise DataError(
            f"{name}: a label is {wrong[:20]!r}; it must be a whole number from 0.", "Give one label a line."
        )
    n_items = sum(1 for _ in read_records(items, ReadOptions()))
    if len(lines) != n_items:
        raise DataError(
            f"{name} has {len(lines):,} labels, but {items.as_posix()} has {n_items:,} items.",
            "Give the labels that belong to these items, one for each.",
        )
    return [int(line) for line in lines]


def _with_label(record: _Item, task: str, label: int) -> _Item:
    """The record with its answer from the file of labels, which its own answer, if any, must equal."""
    name = "answer" if task == "choice" else "label"
    if record.fields.get(name) not in (None, "", -1, "-1") and TASKS[task](record).answer != label:
        raise record.error(
            f"the {name} is {record.fields[name]!r}, but its label in the file of labels is {label}",
            "Leave `labels` out, or give the labels that belong to these items.",
        )
    return record.having({**record.fields, name: label})
