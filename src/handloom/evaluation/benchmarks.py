"""Questions from local files of records, in the formats in which the benchmarks are published.

How a question is put to the model is that of the evaluation harness (lm-evaluation-harness 0.4), since numbers are
compared with its numbers. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from handloom.data.record_files import read_records
from handloom.data.text_io import ReadOptions, form_of, read_text
from handloom.errors import DataError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NO_ANSWER = "Without answers nothing can be scored; if they are in another file, name it with --labels."


@dataclass(frozen=True)
class BenchmarkItem:
    """A question: which of these goes on with the context? With one choice: would the model go on like this?"""

    where: str
    """File and line, for people."""
    context: str
    choices: tuple[str, ...]
    answer: int
    between: str = " "
    """What stands between the context and a choice."""

    def continuation(self, choice: int) -> str:
        """A choice as it stands behind the context."""
        return self.between + self.choices[choice]


def read_items(path: Path, task: str, labels: Path | None = None, limit: int | None = None) -> Iterator[BenchmarkItem]:
    """Stream the questions of a file.

    Args:
        path: JSON Lines or any other form that `read_records` knows.
        task: one of `TASKS`.
        labels: the right answers, a number from 0 a line, in the order of the items.
        limit: stop after so many.

    Raises:
        DataError: naming file and line, for what is not a question of that form.
    """
    answers = None if labels is None else _labels(labels, path, task)
    count = 0
    for found in islice(read_records(path, ReadOptions()), limit):
        where, record = str(found.origin), found.fields
        if answers is not None:
            record = _with_label(record, task, answers[count], where)
        item = TASKS[task](record, where)
        if not item.choices or not all(item.choices):
            raise DataError(f"{where}: a choice is empty.", "Mend or remove that line.")
        if not 0 <= item.answer < len(item.choices):
            raise DataError(
                f"{where}: the answer is number {item.answer} of {len(item.choices)} choices, counted from 0.",
                "Mend or remove that line.",
            )
        count += 1
        yield item
    if not count:
        raise DataError(f"{path.as_posix()}: no items.", "Name a file with one record for each question.")


def detect(path: Path) -> str:
    """The task that the first record of a file belongs to, by its fields; `text` for anything else.

    LAMBADA's form is that of any text, so it has to be named.
    """
    if not path.is_file() or form_of(path) == "text":
        return "text"
    for record in islice(read_records(path, ReadOptions()), 1):
        for task, fields in _FIELDS.items():
            if fields <= set(record.fields):
                return task
    return "text"


_FIELDS = {
    "hellaswag": {"endings"},
    "arc": {"question", "answerKey"},
    "piqa": {"goal", "sol1", "sol2"},
    "choice": {"context", "choices"},
}


def _hellaswag(record: dict[str, Any], where: str) -> BenchmarkItem:
    """The activity before the context, and marks such as [title] taken out of all."""
    if "ctx_a" in record and "ctx_b" in record:
        context = f"{_text(record, 'ctx_a', where)} {_text(record, 'ctx_b', where).capitalize()}"
    else:
        context = _text(record, "ctx", where)
    if "activity_label" in record:
        context = f"{_text(record, 'activity_label', where)}: {context}"
    endings = tuple(map(_without_marks, _texts(record, "endings", where)))
    return BenchmarkItem(where, _without_marks(context), endings, _number(record, "label", where))


def _hellaswag_plain(record: dict[str, Any], where: str) -> BenchmarkItem:
    """Context and endings as they are."""
    endings = tuple(_texts(record, "endings", where))
    return BenchmarkItem(where, _text(record, "ctx", where), endings, _number(record, "label", where))


def _without_marks(text: str) -> str:
    """[title] ends a sentence; what else stands in brackets is left over from the page the text was taken from."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[[^\]\n]*\]", "", text).replace("  ", " ")


def _arc(record: dict[str, Any], where: str) -> BenchmarkItem:
    """Both as it was published, and flat as on Hugging Face's hub."""
    question: Any = record.get("question")
    if isinstance(question, dict):
        stem, choices = _text(question, "stem", where), _field(question, "choices", where)
        parts = [_object(choice, where) for choice in choices] if isinstance(choices, list) else []
        texts = [_text(part, "text", where) for part in parts]
        names = [_text(part, "label", where) for part in parts]
    else:
        stem, both = _text(record, "question", where), _object(_field(record, "choices", where), where)
        texts, names = _texts(both, "text", where), _texts(both, "label", where)
    key = _text(record, "answerKey", where)
    if key not in names:
        raise DataError(
            f"{where}: the answerKey is {key!r}; the choices are called {', '.join(names) or 'nothing'}.",
            "Mend or remove that line.",
        )
    return BenchmarkItem(where, f"Question: {stem}\nAnswer:", tuple(texts), names.index(key))


def _piqa(record: dict[str, Any], where: str) -> BenchmarkItem:
    goal = _text(record, "goal", where)
    choices = (_text(record, "sol1", where), _text(record, "sol2", where))
    return BenchmarkItem(where, f"Question: {goal}\nAnswer:", choices, _number(record, "label", where))


def _lambada(record: dict[str, Any], where: str) -> BenchmarkItem:
    """Everything up to the last space, and the word behind it."""
    text = _text(record, "text", where)
    context, _, word = text.rpartition(" ")
    return BenchmarkItem(where, context, (word,), 0)


def _choice(record: dict[str, Any], where: str) -> BenchmarkItem:
    """The answer as a number from 0, a letter, or the choice itself. White space that is there already counts."""
    context = _text(record, "context", where)
    choices = tuple(_texts(record, "choices", where))
    answer = _field(record, "answer", where)
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    elif isinstance(answer, str) and answer in _LETTERS[: len(choices)] and len(answer) == 1:
        answer = _LETTERS.index(answer)
    spaced = context[-1:].isspace() or all(choice[:1].isspace() for choice in choices)
    right = _number({"answer": answer}, "answer", where)
    return BenchmarkItem(where, context, choices, right, "" if spaced else " ")


TASKS: dict[str, Callable[[dict[str, Any], str], BenchmarkItem]] = {
    "hellaswag": _hellaswag,
    "hellaswag-plain": _hellaswag_plain,
    "arc": _arc,
    "piqa": _piqa,
    "lambada": _lambada,
    "choice": _choice,
}
"""The forms of questions, by the name of the task."""


def _labels(path: Path, items: Path, task: str) -> list[int]:
    """The right answers from a file of their own, one for each item."""
    if task in ("arc", "lambada"):
        raise DataError(
            f"{path.as_posix()}: labels that would not be used, since items of {task} hold their answers.",
            "Leave --labels out.",
        )
    lines = "".join(read_text(path, path.as_posix(), ReadOptions())).split()
    if wrong := next((line for line in lines if not line.isdecimal()), None):
        raise DataError(
            f"{path.as_posix()}: a label is {wrong[:20]!r}; it must be a whole number from 0.", "Give one label a line."
        )
    n_items = sum(1 for _ in read_records(items, ReadOptions()))
    if len(lines) != n_items:
        raise DataError(
            f"{path.as_posix()} has {len(lines):,} labels, but {items.as_posix()} has {n_items:,} items.",
            "Give the labels that belong to these items, one for each.",
        )
    return [int(line) for line in lines]


def _with_label(record: dict[str, Any], task: str, label: int, where: str) -> dict[str, Any]:
    """The record with its answer from the file of labels; one that it has itself must not be another."""
    name = "answer" if task == "choice" else "label"
    if record.get(name) not in (None, "", -1, "-1") and TASKS[task](record, where).answer != label:
        raise DataError(
            f"{where}: the {name} is {record[name]!r}, but its label in the file of labels is {label}.",
            "Leave --labels out, or give the labels that belong to these items.",
        )
    return {**record, name: label}


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: a JSON {type(value).__name__} where an object should be.", "Mend or remove that line."
        )
    return value


def _field(record: dict[str, Any], name: str, where: str) -> Any:
    if name not in record:
        there = ", ".join(sorted(map(str, record))) or "none"
        remedy = "Name the right --task for this file."
        if name in ("label", "answer"):
            remedy = _NO_ANSWER
        raise DataError(f'{where}: no field "{name}" (fields there: {there}).', remedy)
    return record[name]


def _text(record: dict[str, Any], name: str, where: str) -> str:
    value = _field(record, name, where)
    if not isinstance(value, str):
        raise DataError(
            f'{where}: field "{name}" is a {type(value).__name__}, not a string.', "Mend or remove that line."
        )
    return value


def _texts(record: dict[str, Any], name: str, where: str) -> list[str]:
    value = _field(record, name, where)
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise DataError(f'{where}: field "{name}" is not a list of strings.', "Mend or remove that line.")
    return value


def _number(record: dict[str, Any], name: str, where: str) -> int:
    """A whole number, also where it was written as text."""
    value = _field(record, name, where)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f'{where}: field "{name}" is {value!r}; it must be the number of a choice, from 0.', _NO_ANSWER)
    return value
