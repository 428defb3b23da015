"""`handloom data`: prepare text, look at the very batches of a run; `data_check` has the linter."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from handloom.cli.flags import PathFlag

if TYPE_CHECKING:
    from handloom.data import PreparedData, Windows
    from handloom.data.tokenized import TokenData
    from handloom.tokenizer.base import Tokenizer
    from handloom.training.config import FinetuneConfig, TrainConfig

app = App(name="data", help="Prepare and check data, and look at the very batches of a run.", help_format="plaintext")
app.command(
    "handloom.cli.data_check:check",
    name="check",
    help="Look for what a run would stop at, or learn badly.\n\n"
    "All data is read to its end, however many faults it has. The exit code is 0, or 1 where a run would stop or its "
    "validation would lie.",
)

_Data = Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)]
_Flag = Annotated[bool, Parameter(negative="", show_default=False)]
_Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How text is read and parted; None is the default of `handloom.data.prepare`."""

    text_field: str | None = None
    "Field of a record (.jsonl, .json, .csv, ...) that holds its text [default: text]."
    json_as_text: Annotated[bool | None, Parameter(negative="")] = None
    "Take JSON as the text it is, with its braces and field names."
    encoding_errors: str | None = None
    "Bytes that are not UTF-8: strict (an error) or replace [default: strict]."
    document_separator: str | None = None
    'Line between two documents of a text file; "" for none [default: <|endoftext|>].'
    validation_fraction: float | None = None
    "Share of the text held out for validation [default: 0.1]."
    split: str | None = None
    "How to hold out: documents, tail (the end of each document), or auto [default: auto]."


@Parameter(name="*")
@dataclass(frozen=True)
class Order:
    """Which windows make up a batch; None is the default that `show` gives it."""

    context_length: int | None = None
    "Tokens in a window [default: 64]."
    stride: int | None = None
    "Tokens between the starts of two windows [default: the context]."
    batch_size: int | None = None
    "Windows in a batch [default: 2]."
    seed: int | None = None
    "Decides the order of the windows [default: 0]."


@app.command
def prepare(
    *,
    data: _Data = None,
    tokenizer: str = "gpt2",
    reading: Reading = Reading(),  # frozen, and cyclopts wants an instance
    workers: int | None = None,
    verify: _Flag = False,
    as_json: _Json = False,
) -> None:
    """Tokenize text into the cache, and say what came of it.

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
    from handloom.console import print_json
    from handloom.tokenizer import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    prepared = _prepare(data, loaded, _given(reading), workers=workers, verify=verify or None)
    if as_json:
        print_json({**asdict(prepared.report), "folder": str(prepared.folder)})
    else:
        print_report(prepared)


@app.command
def show(
    *,
    step: int = 0,
    run: PathFlag | None = None,
    data: _Data = None,
    tokenizer: str | None = None,
    order: Order = Order(),
    reading: Reading = Reading(),
    ids: _Flag = False,
    as_json: _Json = False,
) -> None:
    """Print the batch that training takes at a step, as text.

    Parameters
    ----------
    step
        Which step, counted from 0.
    run
        A run folder: show the very batch it saw. All other settings are then the run's.
    data
        Files, folders, globs, - for standard input, or python-docs and python-source.
    tokenizer
        gpt2, or a folder with vocab.json and merges.txt [default: gpt2].
    ids
        Print token ids instead of text.
    as_json
        Print one JSON object, for other programs.
    """
    from handloom.cli.data_view import print_batch
    from handloom.console import print_json
    from handloom.data import Windows, sources
    from handloom.tokenizer import load_tokenizer
    from handloom.training.config import FinetuneConfig

    windowing: dict[str, Any] = {"context_length": 64, "batch_size": 2, "seed": 0, **_given(order)}
    parting = _given(reading)
    if run is not None:
        _refuse_beside_run(run, {"data": data, "tokenizer": tokenizer, **asdict(order), **asdict(reading)})
        config, tokenizer = _config_of(run), str(run / "tokenizer")
        if isinstance(config, FinetuneConfig) and config.task != "text":
            _show_examples(run, config, step, ids, as_json)
            return
        data, parting, windowing = (
            list(sources.find_again(config.data, run)),
            _like(Reading, config),
            _like(Order, config),
        )
        windowing["context_length"] = (
            config.context_length
            if isinstance(config, FinetuneConfig)
            else config.model_config(vocab_size=257).context_length  # no matter which vocabulary
        )
    loaded = load_tokenizer(tokenizer or "gpt2")
    prepared: TokenData
    if run is not None and (gone := sources.unrepeatable(data or [])):
        prepared = _from_cache(run, gone, loaded)
    else:
        prepared = _prepare(data, loaded, parting)
    if run is not None:
        sources.require_same_data(run, prepared.key)
    windows = Windows(prepared.train.tokens, **windowing)
    batch = _described(windows, prepared, loaded, step)
    if as_json:
        print_json({"step": step, "windows": batch})
    else:
        print_batch(batch, windows, loaded, step, ids)


def _given(flags: Reading | Order) -> dict[str, Any]:
    return {name: value for name, value in asdict(flags).items() if value is not None}


def _like(flags: type[Reading | Order], config: TrainConfig | FinetuneConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(flags)}


def _prepare(data: list[str] | None, tokenizer: Tokenizer, settings: dict[str, Any], **more: Any) -> PreparedData:
    """Prepare with a progress bar on a terminal's standard error, which only long work gets to show."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from handloom.console import column, progress
    from handloom.data import prepare

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with progress(column("Tokenizing"), *columns) as bar:
        task = bar.add_task("", total=None)
        return prepare(
            data or [],
            tokenizer,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            **settings,
            **more,
        )


def _refuse_beside_run(run: Path, others: dict[str, Any]) -> None:
    from handloom.errors import ConfigError

    given = [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]
    if given:
        raise ConfigError(
            f"{', '.join(given)} cannot stand beside --run {run}, which settles it.", "Leave one of them out."
        )


def _config_of(run: Path) -> TrainConfig | FinetuneConfig:
    """The settings that a run was trained with."""
    from handloom.errors import CheckpointError
    from handloom.settings import read_toml
    from handloom.training.config import settings_of

    for needed in (run / "config.toml", run / "tokenizer"):
        if not needed.exists():
            raise CheckpointError(f"{run} is not a run folder: it has no {needed.name}.", "Check the path.")
    return settings_of(read_toml(run / "config.toml"))


def _show_examples(run: Path, config: FinetuneConfig, step: int, ids: bool, as_json: bool) -> None:
    """The batch of a run that was tuned on examples."""
    from handloom.cli.data_view import examples_of, print_examples
    from handloom.console import print_json
    from handloom.data import sources
    from handloom.loading import find_model
    from handloom.training.progress import NullReporter
    from handloom.training.tasks import open_task

    stored = find_model(run)
    model, tokenizer = stored.load_model(), stored.load_tokenizer()
    context_length = config.context_length or model.config.context_length
    config = replace(config, data=sources.find_again(config.data, run), context_length=context_length)
    objective = open_task(config, model, tokenizer, NullReporter()).objective
    sources.require_same_data(run, objective.data_hash)
    rows = examples_of(objective.batch(step), tokenizer, model.config.label_names)
    if as_json:
        print_json({"step": step, "rows": rows})
    else:
        print_examples(rows, tokenizer, step, ids)


def _from_cache(run: Path, gone: list[str], tokenizer: Tokenizer) -> TokenData:
    """The tokens of a run whose text cannot be read again, so that nobody waits for a pipe."""
    from handloom.data import sources
    from handloom.data.tokenized import open_cached
    from handloom.errors import DataError

    if (prepared := open_cached(sources.data_hash_of(run), tokenizer)) is None:
        raise DataError(
            f"The run {run} learned from {', '.join(gone)}, which cannot be read again, and its tokens are not in the "
            "cache any more.",
            "Put the text back, or point HANDLOOM_CACHE to the cache that it was prepared in.",
        )
    return prepared


def _described(windows: Windows, prepared: TokenData, tokenizer: Tokenizer, step: int) -> list[dict[str, Any]]:
    """The windows of a batch as plain values."""
    from handloom.data.split import TRAIN

    inputs, targets = windows.batch(step)
    epochs, starts = windows.places(step)
    last_tokens = starts + inputs.shape[1] - 1
    shown = [[prepared.train.document_at(token) for token in pair] for pair in zip(starts, last_tokens, strict=True)]
    wanted = {number for pair in shown for number in pair}
    names = islice(prepared.names(TRAIN), max(wanted) + 1)
    named = {number: name for number, name in enumerate(names) if number in wanted}
    batch = []
    for row, (epoch, start) in enumerate(zip(epochs.tolist(), starts.tolist(), strict=True)):
        tokens = inputs[row].tolist()
        first, last = (named[number] for number in shown[row])
        batch.append(
            {
                "number": (step * windows.batch_size + row) % len(windows) + 1,
                "epoch": epoch,
                "first_token": start,
                "documents": [first] if first == last else [first, last],
                "inputs": tokens,
                "targets": targets[row].tolist(),
                "text": tokenizer.decode(tokens),
            }
        )
    return batch
