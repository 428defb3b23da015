"""handloom evaluate"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from handloom.cli.arguments import Precision, note_labels, require_positive
from handloom.cli.flags import ModelPath, PathFlag, flags_of, given
from handloom.errors import RequestError
from handloom.evaluation.eval_text import PerplexityConvention

if TYPE_CHECKING:
    from handloom.evaluation.multiple_choice import ItemResult
    from handloom.inference.language_model import LanguageModel

Task = Literal["auto", "text", "hellaswag", "hellaswag-plain", "arc", "piqa", "lambada", "choice"]
ConventionFlags: Any = flags_of(PerplexityConvention, without=("stride",))


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """What is read from files of records, and written."""

    text_field: str | None = None
    "Field of a record (.jsonl, .json, .csv, ...) that contains the text [default: text]."
    json_as_text: bool = False
    "Read JSON as the text it is, with its braces and field names."
    labels: PathFlag | None = None
    "File with the right answers, one a line, where the items do not contain them (PIQA)."
    items: PathFlag | None = None
    "Also write the result of each item to this file, as JSON Lines."


def evaluate(
    model: ModelPath = Path("runs/demo"),
    *,
    data: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    task: Task = "auto",
    stride: Annotated[list[int] | None, Parameter(consume_multiple=True)] = None,
    convention: Annotated[ConventionFlags, Parameter(name="*")] = ConventionFlags(),  # noqa: B008 - cyclopts wants one
    files: Files = Files(),
    precision: Precision = "fp32",
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Measure a model: perplexity in every convention, or multiple choice by likelihood.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, or the name of a pulled model.
    data
        Files, folders or a built-in corpus to read; for the other tasks one file of records.
    task
        auto detects the task by the fields of the file's first record; anything else is text.
    stride
        New tokens in each window [default: the context, and 512 or half a smaller context].
    precision
        Of the weights: fp32 is exact; auto is the fastest one, see docs/quantization.md.
    threads
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores available].
    json
        Print one JSON object instead of a table.
    """
    from handloom import runtime
    from handloom.evaluation.benchmarks import detect

    if not data:
        raise RequestError("There is nothing to measure on.", "Name a file, a folder or a built-in corpus with `data`.")
    how = PerplexityConvention(**given(convention), stride=tuple(stride or ()))
    require_positive(threads=threads)
    file = runtime.user_path(data[0], "--data")
    found = detect(file) if task == "auto" and len(data) == 1 else task
    found = "text" if found == "auto" else found
    _refuse_unused(found, {**given(convention), "stride": stride, **asdict(files)}, data)
    runtime.set_num_threads(threads)
    if found == "text":
        _evaluate_text(model, data, how, files, precision=precision, json=json)
    else:
        _evaluate_items(model, file, found, how, files=files, precision=precision, json=json)


def _refuse_unused(task: str, flags: dict[str, Any], data: list[str]) -> None:
    """Raise RequestError for a flag that does not apply to this task."""
    of_items = ("labels", "items")
    for name, value in flags.items():
        applies_here = name not in of_items if task == "text" else name in ("limit", "batch_size", *of_items)
        if value and not applies_here:
            raise RequestError(
                f"`{name}` does not apply to {'text' if task == 'text' else f'items of {task}'}.",
                "Leave it out, or name the `task` that is meant (text, hellaswag, arc, piqa, lambada or choice).",
                setting=name,
            )
    if task != "text" and len(data) > 1:
        raise RequestError(f"`task={task}` reads one file, and {len(data)} were named.", "Name one.", setting="data")


def _load(model: Path, precision: str) -> LanguageModel:
    from handloom.console import note
    from handloom.loading import load

    lm = load(model, note, precision=precision)
    note_labels(str(model), lm.config)
    return lm


def _named(model: Path, lm: LanguageModel) -> str:
    return str(model) if lm.precision == "fp32" else f"{model} in {lm.precision}"


def _print(table: Any, notes: list[str]) -> None:
    from handloom.console import new_console

    console = new_console()
    console.print(table)
    for note in notes:
        console.print(f"\n{note}")


def _evaluate_text(
    model: Path, data: list[str], how: PerplexityConvention, files: Files, *, precision: str, json: bool
) -> None:
    """Perplexity."""
    from rich.progress import BarColumn, TaskProgressColumn, TimeRemainingColumn

    from handloom.console import column, note, plain_table, print_json, progress
    from handloom.data.corpus import open_corpus
    from handloom.evaluation.perplexity import as_json, measure, notes, table_heads, table_rows

    corpus = open_corpus(data, text_field=files.text_field or "text", json_as_text=files.json_as_text)
    for sentence, _ in corpus.omissions.sentences():
        note(sentence)
    lm = _load(model, precision)
    with progress(column("Reading"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=None)
        result = measure(lm, corpus, how, lambda done, total: bar.update(task, completed=done, total=total))
    if json:
        print_json({"model": str(model), "precision": lm.precision, "data": corpus.sources, **as_json(result)})
        return
    table = plain_table(f"{_named(model, lm)} on {' '.join(corpus.sources)}")
    table.add_column("", no_wrap=True)
    for head in table_heads(result):
        table.add_column(head, justify="right", no_wrap=True)
    for row in table_rows(result):
        indent, style = ("  ", None) if row.values else ("", "bold")
        table.add_row(indent + row.name, *map(shown, row.values), style=style)
    _print(table, notes(result))


def shown(value: float) -> str:
    """A number of the table."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 1e9:
        return f"{value:.4g}"
    if value == int(value) or abs(value) >= 1e6:
        return f"{value:,.0f}"
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.2f}"


def _evaluate_items(
    model: Path, file: Path, task: str, how: PerplexityConvention, *, files: Files, precision: str, json: bool
) -> None:
    """Multiple choice, with the result of each item in a file of its own if there is one."""
    from json import dumps

    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    from handloom.console import column, number, plain_table, print_json, progress
    from handloom.evaluation.benchmarks import read_items
    from handloom.evaluation.multiple_choice import add_up, as_json, item_json, notes, score_items, scores
    from handloom.storage import output_file, require_not_input

    items = list(read_items(file, task, files.labels, how.limit))
    inputs = [model, file, *([files.labels] if files.labels else [])]
    if files.items is not None:
        require_not_input(files.items, inputs)
    lm = _load(model, precision)
    with ExitStack() as stack:
        lines = None if files.items is None else stack.enter_context(output_file(files.items, inputs))
        bar = stack.enter_context(progress(column("Items"), MofNCompleteColumn(), TimeElapsedColumn()))
        counter = bar.add_task("", total=len(items))

        def on_result(result: ItemResult) -> None:
            bar.advance(counter)
            if lines is not None:
                lines.write(dumps(item_json(result), ensure_ascii=False) + "\n")

        totals = add_up(score_items(lm, items, how.batch_size), on_result)
    if json:
        measured = {"model": str(model), "precision": lm.precision, "data": str(file), "task": task}
        print_json({**measured, **as_json(totals)})
        return
    table = plain_table(f"{_named(model, lm)} on {file}, task {task}: {totals.items:,} items")
    for name in ("", "value", "standard error", "elsewhere called"):
        table.add_column(name, justify="right" if name in ("value", "standard error") else "left")
    for score in scores(totals):
        table.add_row(score.name, number(score.value, 4), number(score.error, 4), score.also)
    _print(table, notes(totals))
