"""handloom evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from handloom.cli.flags import ModelPath, PathFlag
from handloom.cli.model_argument import note_labels
from handloom.errors import RequestError

if TYPE_CHECKING:
    from handloom.data.corpus import Corpus
    from handloom.evaluation.benchmarks import BenchmarkItem
    from handloom.evaluation.eval_text import PerplexityConvention
    from handloom.evaluation.multiple_choice import Totals
    from handloom.evaluation.perplexity import PerplexityResult
    from handloom.inference.language_model import LanguageModel

Task = Literal["auto", "text", "hellaswag", "hellaswag-plain", "arc", "piqa", "lambada", "choice"]


def evaluate(
    model: ModelPath = Path("runs/demo"),
    *,
    data: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    task: Task = "auto",
    limit: int | None = None,
    stride: Annotated[list[int] | None, Parameter(consume_multiple=True)] = None,
    context_length: int | None = None,
    detokenize: Literal["none", "wikitext", "ptb", "lambada"] = "none",
    documents: Literal["alone", "joined"] = "alone",
    without_end_of_text: bool = False,
    text_field: str = "text",
    json_as_text: bool = False,
    labels: PathFlag | None = None,
    items: PathFlag | None = None,
    batch_size: int = 8,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Measure a model: perplexity in every convention, or right answers by likelihood.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, or the name of a pulled model.
    data
        Files, folders or a built-in corpus to read; for the other tasks one file of records.
    task
        auto looks at the fields of the file's first record, and takes what else it finds for text.
    limit
        Only the first so many documents, or items.
    stride
        New tokens in each window [default: the context, and 512 or half a smaller context].
    context
        Tokens read at once [default: all that the model can].
    detokenize
        The benchmark that the text is: also read it as ordinary text.
    documents
        Each document from its own beginning, or joined one behind the other.
    without_end_of_text
        Put no end of text before the documents; their first tokens then do not count.
    text_field
        Field of a record (.jsonl, .json, .csv, ...) that holds the text.
    json_as_text
        Read JSON as the text it is, with its braces and field names.
    labels
        File with the right answers, one a line, where the items do not hold them (PIQA).
    items
        Also write what became of each item to this file, as JSON Lines.
    batch_size
        Windows or items read together.
    threads
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores granted].
    json
        Print one JSON object instead of a table.
    """
    from handloom import runtime
    from handloom.console import note, print_json
    from handloom.data.corpus import open_corpus
    from handloom.evaluation import multiple_choice
    from handloom.evaluation.benchmarks import detect, read_items
    from handloom.evaluation.eval_text import PerplexityConvention
    from handloom.loading import load
    from handloom.storage import require_not_input

    if not data:
        raise RequestError(
            "There is nothing to measure on.", "Name it with --data: a file, a folder, or a built-in corpus."
        )
    for name, value in (("limit", limit), ("batch-size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise RequestError(f"--{name} is {value}; it must be at least 1.", "Leave it out for the usual.")
    chosen = detect(runtime.user_path(data[0], "--data")) if task == "auto" and len(data) == 1 else task
    chosen = "text" if chosen == "auto" else chosen
    of_text = {
        "--stride": stride, "--context-length": context_length, "--detokenize": detokenize != "none",
        "--documents": documents != "alone", "--without-end-of-text": without_end_of_text,
        "--text-field": text_field != "text", "--json-as-text": json_as_text,
    }  # fmt: skip
    unused = {"--labels": labels, "--items": items} if chosen == "text" else of_text
    _refuse(chosen, [flag for flag, value in unused.items() if value], data)
    reading: dict[str, Any] = {"text_field": text_field, "json_as_text": json_as_text}
    corpus = open_corpus(data, **reading) if chosen == "text" else None
    for sentence, _ in corpus.omissions.sentences() if corpus else []:
        note(sentence)
    file = runtime.user_path(data[0], "--data")
    questions = list(read_items(file, chosen, labels, limit)) if corpus is None else []
    inputs = [model, file, *([labels] if labels else [])]
    if items is not None:
        require_not_input(items, inputs)
    runtime.set_num_threads(threads)
    lm = load(model, note)
    note_labels(str(model), lm.config)
    if corpus is None:
        sums = _choose(lm, questions, batch_size, items, inputs)
        if json:
            print_json({"model": str(model), "data": str(file), "task": chosen, **multiple_choice.as_json(sums)})
        else:
            _show_tally(sums, f"{model} on {file}, task {chosen}: {sums.items:,} items")
        return
    convention = PerplexityConvention(
        documents, not without_end_of_text, detokenize, context_length, tuple(stride or ()), limit, batch_size
    )
    _read(lm, model, corpus, convention, json)


def _refuse(task: str, flags: list[str], data: list[str]) -> None:
    """Raise RequestError for what has no meaning with this task."""
    if flags:
        kind = "text" if task == "text" else f"items of {task}"
        raise RequestError(
            f"{flags[0]} has no meaning for {kind}.",
            "Leave it out, or name the --task that is meant (text, hellaswag, arc, piqa, lambada or choice).",
        )
    if task != "text" and len(data) > 1:
        raise RequestError(f"--task {task} reads one file, and {len(data)} were named.", "Name one.")


def _read(lm: LanguageModel, model: Path, corpus: Corpus, convention: PerplexityConvention, json: bool) -> None:
    """Perplexity."""
    from rich.progress import BarColumn, TaskProgressColumn, TimeRemainingColumn

    from handloom.console import column, print_json, progress
    from handloom.evaluation.perplexity import measure
    from handloom.evaluation.table import as_json

    with progress(column("Reading"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=None)
        measured = measure(lm, corpus, convention, lambda done, total: bar.update(task, completed=done, total=total))
    if json:
        print_json({"model": str(model), "data": corpus.sources, **as_json(measured)})
    else:
        _show(measured, f"{model} on {' '.join(corpus.sources)}")


def _show(measured: PerplexityResult, title: str) -> None:
    from handloom.console import new_console, plain_table
    from handloom.evaluation.table import heads, reasons, rows, shown

    table = plain_table(title)
    table.add_column("", no_wrap=True)
    for head in heads(measured):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows(measured):
        if row.values:
            table.add_row(f"  {row.name}", *map(shown, row.values))
        else:
            table.add_row(row.name, style="bold")
    console = new_console()
    console.print(table)
    for reason in reasons(measured):
        console.print(f"\n{reason}")


def _choose(
    lm: LanguageModel, questions: list[BenchmarkItem], batch_size: int, items: Path | None, inputs: list[Path]
) -> Totals:
    """Questions, with what became of each in the file `items`."""
    from contextlib import ExitStack
    from json import dumps

    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    from handloom.console import column, progress
    from handloom.evaluation.multiple_choice import ItemResult, answers, item_json, tally
    from handloom.storage import output_file

    columns = (column("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        output = None if items is None else stack.enter_context(output_file(items, inputs))
        bar = stack.enter_context(progress(*columns))
        shown = bar.add_task("Items", total=len(questions))

        def told(one: ItemResult) -> None:
            bar.advance(shown)
            if output is not None:
                output.write(dumps(item_json(one), ensure_ascii=False) + "\n")

        return tally(answers(lm, questions, batch_size), told)


def _show_tally(sums: Totals, title: str) -> None:
    from handloom.console import new_console, plain_table
    from handloom.evaluation.multiple_choice import notes, scores

    table = plain_table(title)
    for column in ("", "value", "standard error", "elsewhere called"):
        table.add_column(column, justify="right" if column in ("value", "standard error") else "left")
    for score in scores(sums):
        table.add_row(
            score.name, f"{score.value:,.4f}", "-" if score.error is None else f"{score.error:.4f}", score.also
        )
    console = new_console()
    console.print(table)
    for note in notes(sums):
        console.print(f"\n{note}")
