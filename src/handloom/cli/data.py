"""`handloom data`: prepare text, show the batches of a run; `data_check` has the linter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from handloom.cli.flags import PathFlag, flags_of, given
from handloom.settings import setting_names
from handloom.training.config import TrainConfig

if TYPE_CHECKING:
    from handloom.data.tokenized import PreparedData, TokenData
    from handloom.data.windows import Windows
    from handloom.tokenizer.base import Tokenizer
    from handloom.training.config import FinetuneConfig

app = App(name="data", help="Prepare and check data, and show the batches of a run.", help_format="plaintext")
app.command(
    "handloom.cli.data_check:check",
    name="check",
    help="Find what would stop a run, or be learned badly.\n\n"
    "All data is read to its end, however many faults it has. The exit code is 0, or 1 where a run would stop or its "
    "validation would be false.",
)

DataFlag = Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]
JsonSwitch = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
READING = {"text_field", "json_as_text", "encoding_errors", "document_separator", "validation_fraction", "split"}
"""The settings of a run that decide how text is read and split."""
ReadFlags: Any = flags_of(TrainConfig, without=set(setting_names(TrainConfig)) - READING)


@app.command
def prepare(
    *,
    data: DataFlag = None,
    tokenizer: str = "gpt2",
    workers: int | None = None,
    verify: Switch = False,
    as_json: JsonSwitch = False,
    reading: Annotated[ReadFlags, Parameter(name="*")] = ReadFlags(),  # noqa: B008 - cyclopts wants an instance
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
    from handloom.console import print_json
    from handloom.tokenizer import load_tokenizer

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
    reading: Annotated[ReadFlags, Parameter(name="*")] = ReadFlags(),  # noqa: B008
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
    from handloom.training.config import FinetuneConfig

    order = {"context_length": context_length, "stride": stride, "batch_size": batch_size, "seed": seed}
    chosen = {name: value for name, value in order.items() if value is not None} | given(reading)
    form = (ids, as_json)
    if run is None:
        settings = {"context_length": 64, "batch_size": 2, "seed": 0} | chosen
        _show_windows(data or [], tokenizer or "gpt2", settings, step=step, form=form)
        return
    _refuse_with_run(run, {"data": data, "tokenizer": tokenizer} | chosen)
    config = _config_of(run)
    if isinstance(config, FinetuneConfig) and config.task != "text":
        _show_examples(run, config, step, form)
        return
    settings = {name: getattr(config, name) for name in (*order, *READING)}
    if not isinstance(config, FinetuneConfig):  # whatever the vocabulary
        settings["context_length"] = config.model_config(vocab_size=257).context_length
    _show_windows(config.data, str(run / "tokenizer"), settings, step=step, form=form, run=run)


def _show_windows(
    data: Sequence[str],
    tokenizer: str,
    settings: dict[str, Any],
    *,
    step: int,
    form: tuple[bool, bool],
    run: Path | None = None,
) -> None:
    """The batch of running text, as ids or text, and as JSON or not."""
    from handloom.cli.data_view import print_batch
    from handloom.console import print_json
    from handloom.data import sources
    from handloom.data.windows import Windows
    from handloom.tokenizer import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    reading = {name: value for name, value in settings.items() if name in READING}
    data = list(data if run is None else sources.find_again(data, run))
    prepared: TokenData
    if run is not None and (gone := sources.unrepeatable(data)):
        prepared = _from_cache(run, gone, loaded)
    else:
        prepared = _prepare(data, loaded, reading)
    if run is not None:
        sources.require_same_data(run, prepared.key)
    windows = Windows(prepared.train.tokens, **{name: settings[name] for name in settings if name not in READING})
    batch = _described(windows, prepared, loaded, step)
    ids, as_json = form
    if as_json:
        print_json({"step": step, "windows": batch})
    else:
        print_batch(batch, windows, loaded, step=step, ids=ids)


def _prepare(data: list[str] | None, tokenizer: Tokenizer, settings: dict[str, Any]) -> PreparedData:
    """Prepare with a progress bar on a terminal's standard error."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from handloom.console import column, progress
    from handloom.data.tokenized import prepare

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with progress(column("Tokenizing"), *columns) as bar:
        task = bar.add_task("", total=None)

        def on_progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return prepare(data or [], tokenizer, on_progress=on_progress, **settings)


def _refuse_with_run(run: Path, others: dict[str, Any]) -> None:
    from handloom.errors import ConfigError

    if names := [f"`{name}`" for name, value in others.items() if value is not None]:
        raise ConfigError(
            f"{', '.join(names)} cannot be combined with --run {run}, which determines it.", "Leave one of them out."
        )


def _config_of(run: Path) -> TrainConfig | FinetuneConfig:
    """The settings that a run was trained with."""
    from handloom.errors import CheckpointError
    from handloom.settings import read_toml
    from handloom.training.config import settings_of

    for needed in (run / "config.toml", run / "tokenizer"):
        if not needed.exists():
            raise CheckpointError(f"{run} is not a run folder: {needed.name} is missing.", "Check the path.")
    return settings_of(read_toml(run / "config.toml"))


def _show_examples(run: Path, config: FinetuneConfig, step: int, form: tuple[bool, bool]) -> None:
    """The batch of a run that was finetuned on examples, as ids or text, and as JSON or not."""
    from handloom.cli.data_view import examples_of, print_examples
    from handloom.console import print_json
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
    ids, as_json = form
    if as_json:
        print_json({"step": step, "rows": rows})
    else:
        print_examples(rows, tokenizer, step, ids)


def _from_cache(run: Path, gone: list[str], tokenizer: Tokenizer) -> TokenData:
    """The tokens of a run whose text cannot be read again."""
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
    ends = starts + inputs.shape[1] - 1
    shown = [[prepared.train.document_at(token) for token in pair] for pair in zip(starts, ends, strict=True)]
    wanted = {number for pair in shown for number in pair}
    named = {
        number: name for number, name in enumerate(islice(prepared.names(TRAIN), max(wanted) + 1)) if number in wanted
    }
    return [
        {
            "number": (step * windows.batch_size + row) % len(windows) + 1,
            "epoch": int(epochs[row]),
            "first_token": int(starts[row]),
            "documents": list(dict.fromkeys(named[number] for number in shown[row])),
            "inputs": inputs[row].tolist(),
            "targets": targets[row].tolist(),
            "text": tokenizer.decode(inputs[row].tolist()),
        }
        for row in range(len(inputs))
    ]
