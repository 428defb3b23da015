"""A run from its settings to its summary: begin one, or go on with one that was stopped."""

from __future__ import annotations

import dataclasses
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from handloom import runtime, storage
from handloom.checkpoints import native
from handloom.errors import CheckpointError, ConfigError, HandloomError, require_type
from handloom.screen import NAMES, shielded
from handloom.training import resuming, scratch, tuning
from handloom.training.config import FinetuneConfig, LoopSettings, TrainConfig
from handloom.training.interrupt import stop_on_signals
from handloom.training.log import METRICS
from handloom.training.loop import Progress, Trainer
from handloom.training.optimizer import Optimizer
from handloom.training.report import Reporter, Silent
from handloom.training.reproducible import left_as_found
from handloom.training.work import Work, counted, tell_size

C = TypeVar("C", bound=LoopSettings)

_OURS = (
    native.CHECKPOINTS,
    METRICS,
    "config.toml",
    "data.json",
    "loss.svg",
    "samples.md",
    "summary.json",
    "tokenizer",
    "tensorboard",
)


@left_as_found()
@shielded(*NAMES)
def begin(
    run: str | Path,
    config: LoopSettings,
    reporter: Reporter | None = None,
    *,
    overwrite: bool = False,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train a model: from scratch with a `TrainConfig`, or one that is there with a `FinetuneConfig`.

    Args:
        run: the folder to make: settings, metrics, samples, plot, checkpoints, summary.
        config: the settings.
        reporter: told what happens; nobody if None.
        overwrite: whether a run that lies there already may be replaced.
        stop_after: stop after this step, as Ctrl-C would.

    Returns:
        the summary, as in `summary.json`.

    Raises:
        HandloomError: for settings, data or a disk that do not allow it.
    """
    run, reporter = runtime.user_path(run, "the run"), reporter or Silent()
    _check_call(reporter, stop_after)
    require_type(
        config, "What should be settings", (TrainConfig, FinetuneConfig), "a TrainConfig or a FinetuneConfig"
    )
    _check_room(run, overwrite)
    config = _decide(config)
    config, work = _set_up(config, run, reporter)
    _describe(work, config, reporter)
    work.report["omitted"] = (
        work.report.get("omitted", {}) | tell_size(config, work.objective, reporter).to_dict()
    )
    _make_room(run)  # only now: settings and text that are refused cost no earlier run
    _write_beginning(run, config, work)
    return _train(run, config, work, {}, Progress(), reporter, stop_after)


@left_as_found()
@shielded(*NAMES)
def resume(
    run: str | Path,
    reporter: Reporter | None = None,
    *,
    changes: dict[str, Any] | None = None,
    stop_after: int | None = None,
    kind: type[LoopSettings] | None = None,
    into: Path | None = None,
    drop_later: bool = False,
) -> dict[str, Any]:
    """Go on with a run from its newest whole checkpoint, to the very bits it would have had without a stop.

    What was edited in its config.toml holds, as far as it may change.

    Args:
        run: its folder, or one of its checkpoints to go on from.
        reporter: told what happens; nobody if None.
        changes: settings to change; only those in `resuming.CHANGEABLE`.
        stop_after: stop after this step, as Ctrl-C would.
        kind: of its settings, where only such a run is meant; None for any.
        into: the folder of a new run to go on in, which leaves the old one as it is.
        drop_later: whether checkpoints later than the one named may be moved out of the way.

    Returns:
        the summary, as in `summary.json`.

    Raises:
        HandloomError: when there is nothing to go on from, or the text is not what it was.
    """
    named, reporter = runtime.user_path(run, "the run"), reporter or Silent()
    _check_call(reporter, stop_after)
    changes = {} if changes is None else changes
    require_type(changes, "What should be changes", dict, "a dict of settings")
    start = resuming.start_of(named, changes, kind, reporter)
    checkpoint, progress = start.checkpoint, start.progress
    run = resuming.choose_folder(named, start, into, drop_later)
    if into is not None:
        _check_room(run, False)
    for folder in (run, run / native.CHECKPOINTS):
        storage.remove_unfinished(folder)
    config, work = _set_up(_decide(start.config), run, reporter, checkpoint)
    if work.objective.key != checkpoint.training["data"]:
        raise CheckpointError(
            f"The text of run {start.run or named} is not what it was: its data ({', '.join(start.config.data)}) has "
            f"the key {work.objective.key[:12]} now and had {checkpoint.training['data'][:12]} then.",
            "Put the text back as it was, name the place it was moved to (--data), or begin a new run.",
        )
    if into is not None:
        resuming.copy_start(start, run)
        _write_beginning(run, config, work)
    resuming.set_aside_later(start, run, reporter)
    for step in native.steps(run):  # what lies beyond is torn, and will be written again
        if step > progress.step:
            shutil.rmtree(native.step_folder(run, step), ignore_errors=True)
    reporter.note(f"Going on with {run} from step {progress.step:,}.")
    storage.write_output(run / "config.toml", config.to_toml())
    return _train(run, config, work, checkpoint.load_optimizer(), progress, reporter, stop_after)


def _write_beginning(run: Path, config: LoopSettings, work: Work) -> None:
    """What a run's folder has from its beginning."""
    storage.write_output(run / "config.toml", config.to_toml())
    about = {"key": work.objective.key, "folder": os.getcwd(), **work.report}
    storage.write_output(run / "data.json", _as_json(about))
    work.tokenizer.save(run / "tokenizer")


def _set_up(
    config: LoopSettings, run: Path, reporter: Reporter, checkpoint: native.Checkpoint | None = None
) -> tuple[LoopSettings, Work]:
    """What the settings ask for, made or, from a checkpoint, made again; with what they left open decided."""
    if isinstance(config, FinetuneConfig):
        return tuning.set_up(config, run, reporter, checkpoint)
    assert isinstance(config, TrainConfig)
    return config, scratch.set_up(config, reporter, checkpoint)


def _train(
    run: Path,
    config: LoopSettings,
    work: Work,
    optimizer_state: dict[str, torch.Tensor],
    progress: Progress,
    reporter: Reporter,
    stop_after: int | None,
) -> dict[str, Any]:
    native_bf16 = torch.bfloat16 if config.precision == "bf16" else torch.float32
    optimizer = Optimizer(
        work.model,
        config.optimizer,
        config.learning_rate,
        config.weight_decay,
        (config.beta1, config.beta2),
        native_bf16,
    )
    optimizer.load_state_tensors(optimizer_state)
    trainer = Trainer(
        run,
        config,
        work.tokenizer,
        work.objective,
        work.model,
        optimizer,
        progress,
        reporter,
        work.save,
        work.reader,
    )
    with stop_on_signals(lambda: reporter.note("Stopping here and saving. Again: stop at once.")) as wish:
        finished = trainer.train(wish, stop_after)
    earlier: dict[str, Any] = {}
    if trainer.finding is None:  # gone on with, and not validated since: what was found before still holds
        with suppress(HandloomError):
            earlier = storage.read_json(run / "summary.json")
    summary = {**earlier, **summarize(trainer, finished), **work.summary}
    storage.write_output(run / "summary.json", _as_json(summary))
    return summary


def summarize(trainer: Trainer, finished: bool) -> dict[str, Any]:
    """What the run came to, as plain values."""
    progress, validations = trainer.progress, trainer.log.of_kind("validation")
    last = {f"val_{name}": value for name, value in validations[-1].items()} if validations else {}
    for other in ("kind", "step", "seconds"):
        last.pop(f"val_{other}", None)
    return {
        "finished": finished,
        "steps": progress.step,
        "total_steps": progress.total,
        "tokens": progress.tokens,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "val_loss": None,
        **last,
        "best_step": progress.best_step,
        "train_seconds": round(progress.seconds, 3),
        "step_seconds": round(progress.step_seconds, 3),
        "predicted_seconds": progress.predicted_seconds and round(progress.predicted_seconds, 3),
        "tokens_per_second": round(progress.tokens / progress.step_seconds, 1)
        if progress.step_seconds
        else None,
        "peak_memory_bytes": runtime.peak_memory_bytes(),
        "threads": trainer.config.threads,
        "precision": trainer.config.precision,
        "data": trainer.objective.key,
        "versions": runtime.versions(),
        **(trainer.finding.details if trainer.finding else {}),
    }


def _as_json(value: dict[str, Any]) -> str:
    import json

    return json.dumps(value, indent=2) + "\n"


def _check_room(run: Path, overwrite: bool) -> None:
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run} is a file, not a folder.", "Name another folder with --run.")
    if not overwrite and (native.steps(run) or (run / METRICS).exists()):
        raise ConfigError(
            f"{run} already holds a run.",
            f"Go on with it (--resume {run}), replace it (--overwrite), or name another folder.",
        )


def _make_room(run: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        for name in _OURS:
            path = run / name
            for each in path.iterdir() if path.is_symlink() and path.is_dir() else [path]:  # on another disk
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
    except OSError as error:
        raise storage.refusal(error, run) from error


def _decide(config: C) -> C:
    """Settle what depends on the machine, so that it is written down and stays."""
    threads = runtime.use_threads(config.threads)
    return dataclasses.replace(config, threads=threads, precision=runtime.choose_precision(config.precision))


def _describe(work: Work, config: LoopSettings, reporter: Reporter) -> None:
    shape, parameters = work.model.config, sum(p.numel() for p in work.model.parameters())
    reporter.note(work.described)
    reporter.note(
        f"Model: {parameters:,} parameters, {counted(shape.layers, 'layer')}, {counted(shape.heads, 'head')}, "
        f"{shape.width} wide, context {shape.context}; {config.precision} on {counted(config.threads or 1, 'thread')}."
    )


def _check_call(reporter: Reporter, stop_after: int | None) -> None:
    require_type(reporter, "The reporter", Reporter, "an object with the methods of training.report.Reporter")
    require_type(stop_after, "The step stop_after", (int, type(None)), "an int, or None to train to the end")
    if stop_after is not None and stop_after < 0:
        raise ConfigError(
            f"--stop-after is {stop_after}; it must be at least 0.", "Leave it out to train to the end."
        )
