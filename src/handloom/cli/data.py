"""`handloom data`: prepare text, show the batches of a run, find what would stop one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from handloom.cli.flags import PathFlag, flags_of, given
from handloom.console import column, new_console, note, print_json, progress
from handloom.data.lint import DataStats, Finding, LintSettings, grouped, lint
from handloom.data.lint.rules import ERROR, SEVERITIES, count
from handloom.errors import CheckpointError, ConfigError, DataError
from handloom.runtime import user_path
from handloom.settings import read_toml, setting_names
from handloom.tokenizer import load_tokenizer
from handloom.training.config import FinetuneConfig, TrainConfig, settings_of

if TYPE_CHECKING:
    from handloom.data.tokenized import PreparedData, TokenData
    from handloom.tokenizer.base import Tokenizer

app = App(name="data", help="Prepare and check data, and show the batches of a run.", help_format="plaintext")
DataFlag = Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]
JsonSwitch = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
READING = {"text_field", "json_as_text", "encoding_errors", "document_separator", "validation_fraction", "split"}
"""The settings of a run that decide how text is read and split."""
CheckFlags: Any = flags_of(LintSettings)
_Batch = tuple[dict[str, Any], Callable[..., None]]
"""A batch as plain values, and what prints it as text, or as `ids`."""
ReadFlags: Any = flags_of(TrainConfig, without=set(setting_names(TrainConfig)) - READING)


@app.command
def prepare(
    *,
    data: DataFlag = None,
    tokenizer: str = "gpt2",
    workers: int | None = None,
    verify: Switch = False,
    as_json: JsonSwitch = False,
    reading: ReadFlags = None,
) -> None:
    """Tokenize text into the cache, and print statistics.

    Parameters
    ----------
    data
        Files, folders, globs, - for standard input, or python-docs and python-source.
    tokenizer
        gpt2, or a folder with vocab.json and merges.txt.
    workers
        Threads that tokenize [default: one for each available core].
    verify
        Read prepared shards through and compare their checksums, however large they are.
    as_json
        Print one JSON object, for other programs.
    """
    from handloom.cli.data_view import print_report

    loaded = load_tokenizer(tokenizer)
    prepared = _prepare(data, loaded, given(reading) | {"workers": workers, "verify": verify or None})
    if as_json:
        print_json({**asdict(prepared.report), "folder": str(prepared.folder)})
    else:
        print_report(prepared)


@app.command
def show(
    *,
    step: int = 0,
    run: PathFlag | None = None,
    data: DataFlag = None,
    tokenizer: str | None = None,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    ids: Switch = False,
    as_json: JsonSwitch = False,
    reading: ReadFlags = None,
) -> None:
    """Print the batch that training takes at a step, as text.

    Parameters
    ----------
    step
        Which step, counted from 0.
    run
        A run folder: show the batch that it saw. All other settings are then the run's.
    data
        Files, folders, globs, - for standard input, or python-docs and python-source.
    tokenizer
        gpt2, or a folder with vocab.json and merges.txt [default: gpt2].
    context_length
        Tokens in a window [default: 64].
    stride
        Tokens between the starts of two windows [default: the context length].
    batch_size
        Windows in a batch [default: 2].
    seed
        Decides the order of the windows [default: 0].
    ids
        Print token ids instead of text.
    as_json
        Print one JSON object, for other programs.
    """
    order = {"context_length": context_length, "stride": stride, "batch_size": batch_size, "seed": seed}
    chosen = {name: value for name, value in order.items() if value is not None} | given(reading)
    if run is None:
        settings = {"context_length": 64, "batch_size": 2, "seed": 0} | chosen
        shown = _windows(data or [], tokenizer or "gpt2", settings, step=step)
    else:
        given_too = {"data": data, "tokenizer": tokenizer} | chosen
        if names := [f"`{name}`" for name, value in given_too.items() if value is not None]:
            raise ConfigError(
                f"{', '.join(names)} cannot be combined with --run {run}, which determines it.",
                "Leave one of them out.",
            )
        shown = _batch_of(run, step)
    record, show_text = shown
    if as_json:
        print_json({"step": step, **record})
    else:
        show_text(ids=ids)


@app.command
def check(
    *,
    data: DataFlag = None,
    tokenizer: str = "gpt2",
    flags: CheckFlags = None,
    every: Annotated[bool, Parameter(name="--all", negative="", show_default=False)] = False,
    as_json: JsonSwitch = False,
) -> None:
    """Find what would stop a run with these settings, or be learned badly.

    All data is read to its end, however many faults it has. The exit code is 0, or 1 where a run would stop or its
    validation would be false.

    Parameters
    ----------
    data
        text: files, folders, globs, -, python-docs, python-source; other tasks: .jsonl, .csv, ...
    tokenizer
        What to measure lengths with: gpt2, a folder with vocab.json and merges.txt, or a model, which also brings
        its context length.
    every
        List every place, not only the first three of each kind.
    as_json
        Print one JSON object with all there is, every place too, for other programs.
    """
    chosen = given(flags)
    settings = LintSettings(**chosen)  # refused before a model is looked for
    loaded, context_length = _tokenizer_of(tokenizer, settings.context_length)
    settings = LintSettings(**{"context_length": context_length, **chosen})
    stats = DataStats()
    findings = _findings(data or [], loaded, settings, stats)
    groups = grouped(findings, None if every or as_json else 3)
    if as_json:
        numbers = {f"{severity}s": count(groups, severity) for severity in SEVERITIES}
        found = {"findings": [group.to_dict() for group in groups]}
        print_json({**asdict(settings), "tokenizer": tokenizer, **numbers, **found, **stats.to_dict()})
    else:
        from handloom.cli.data_view import print_check

        print_check(groups, settings, stats, tokenizer)
    if count(groups, ERROR):
        sys.exit(1)


def _batch_of(run: Path, step: int) -> _Batch:
    """The batch that a run saw."""
    for needed in (run / "config.toml", run / "tokenizer"):
        if not needed.exists():
            raise CheckpointError(f"{run} is not a run folder: {needed.name} is missing.", "Check the path.")
    config = settings_of(read_toml(run / "config.toml"))
    if isinstance(config, FinetuneConfig) and config.task != "text":
        return _examples(run, config, step)
    names = ("context_length", "stride", "batch_size", "seed", *READING)
    settings = {name: getattr(config, name) for name in names}
    if not isinstance(config, FinetuneConfig):  # whatever the vocabulary
        settings["context_length"] = config.model_config(vocab_size=257).context_length
    return _windows(config.data, str(run / "tokenizer"), settings, step=step, run=run)


def _windows(
    data: Sequence[str], tokenizer: str, settings: dict[str, Any], *, step: int, run: Path | None = None
) -> _Batch:
    """The batch of running text, as plain values and as what prints them."""
    from handloom.cli.data_view import print_batch, windows_of
    from handloom.data import sources
    from handloom.data.tokenized import open_cached
    from handloom.data.windows import Windows

    loaded = load_tokenizer(tokenizer)
    data = list(data if run is None else sources.find_again(data, run))
    prepared: TokenData | None
    if run is not None and (gone := sources.unrepeatable(data)):
        prepared = open_cached(sources.data_hash_of(run), loaded)
        if prepared is None:
            raise DataError(
                f"The run {run} learned from {', '.join(gone)}, which cannot be read again, and its tokens are not in "
                "the cache any more.",
                "Put the text back, or point HANDLOOM_CACHE to the cache that it was prepared in.",
            )
    else:
        prepared = _prepare(data, loaded, {name: value for name, value in settings.items() if name in READING})
    if run is not None:
        sources.require_same_data(run, prepared.key)
    windows = Windows(prepared.train.tokens, **{name: settings[name] for name in settings if name not in READING})
    batch = windows_of(windows, prepared, loaded, step)
    return {"windows": batch}, partial(print_batch, batch, windows, loaded, step=step)


def _examples(run: Path, config: FinetuneConfig, step: int) -> _Batch:
    """The batch of a run that was finetuned on examples, likewise."""
    from handloom.cli.data_view import examples_of, print_examples
    from handloom.data import sources
    from handloom.loading import find_model
    from handloom.training.progress import Reporter
    from handloom.training.tasks import open_task

    stored = find_model(run)
    model, tokenizer = stored.load_model(), stored.load_tokenizer()
    context_length = config.context_length or model.config.context_length
    config = replace(config, data=sources.find_again(config.data, run), context_length=context_length)
    objective = open_task(config, model, tokenizer, Reporter()).objective
    sources.require_same_data(run, objective.data_hash)
    rows = examples_of(objective.batch(step), tokenizer, model.config.label_names)
    return {"rows": rows}, partial(print_examples, rows, tokenizer, step)


def _prepare(data: list[str] | None, tokenizer: Tokenizer, settings: dict[str, Any]) -> PreparedData:
    """Prepare with a progress bar on a terminal's standard error."""
    from handloom.data.tokenized import prepare

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with progress(column("Tokenizing"), *columns) as bar:
        task = bar.add_task("", total=None)

        def on_progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return prepare(data or [], tokenizer, on_progress=on_progress, **settings)


def _findings(data: list[str], tokenizer: Tokenizer, settings: LintSettings, stats: DataStats) -> Iterator[Finding]:
    """Every finding, with the progress on a terminal's standard error."""
    console = new_console(stderr=True)
    if not console.is_terminal:
        yield from lint(data, tokenizer, settings, stats)
        return
    with console.status("Reading") as status:

        def on_progress(texts: int) -> None:
            if texts % 100 == 0:
                status.update(f"Reading: {texts:,} texts")

        yield from lint(data, tokenizer, settings, stats, on_progress=on_progress)


def _tokenizer_of(name: str, context_length: int) -> tuple[Tokenizer, int]:
    """The tokenizer of that name, and the context length of its model, if it belongs to one."""
    folder = user_path(name, "--tokenizer")
    is_model = any((folder / part).exists() for part in ("config.json", "checkpoints", "adapter_config.json"))
    if name == "gpt2" or (folder.is_dir() and not is_model):
        return load_tokenizer(name), context_length
    from handloom.loading import find_model

    stored = find_model(name, note)
    return stored.load_tokenizer(), stored.config.context_length
