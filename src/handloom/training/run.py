"""A run from its settings to its summary: begin one, or go on with one that was stopped."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from handloom import locks, ownership, replacement, runtime, storage
from handloom.checkpoints import native
from handloom.errors import CheckpointError, ConfigError, HandloomError, require_type
from handloom.screen import NAMES, shielded
from handloom.training import resuming, scratch, tuning
from handloom.training.config import FinetuneConfig, LoopSettings, TrainConfig
from handloom.training.inputs import read_by
from handloom.training.loop import Progress, Trainer
from handloom.training.optimizer import Optimizer
from handloom.training.progress import NullReporter, Reporter
from handloom.training.seeding import left_as_found
from handloom.training.signals import stop_on_signals
from handloom.training.work import TrainingSetup, pluralize, tell_size

C = TypeVar("C", bound=LoopSettings)


@left_as_found()
@shielded(*NAMES)
def begin(
    run: str | Path,
    config: LoopSettings,
    reporter: Reporter | None = None,
    *,
    overwrite: bool = False,
    stop_after: int | None = None,
    reads: Sequence[Path] = (),
) -> dict[str, Any]:
    """Train a model: from scratch with a `TrainConfig`, or one that is there with a `FinetuneConfig`.

    Args:
        run: the folder to make: settings, metrics, samples, plot, checkpoints, summary.
        config: the settings.
        reporter: told what happens; nobody if None.
        overwrite: whether a run that is there already may be replaced. It is removed when the new run has saved
            its first checkpoint, and comes back if that fails.
        stop_after: stop after this step, as Ctrl-C would.
        reads: what is read besides what the settings name, such as the file of settings.

    Returns:
        the summary, as in `summary.json`.

    Raises:
        HandloomError: for settings, data or a disk that do not allow it.
    """
    run, reporter = runtime.user_path(run, "the run"), reporter or NullReporter()
    _check_call(reporter, stop_after)
    require_type(config, "What should be settings", (TrainConfig, FinetuneConfig), "a TrainConfig or a FinetuneConfig")
    with _room(run, config, reads, overwrite) as check_again:
        config = _decide(config)
        config, work = _set_up(config, run, reporter)
        _describe(work, config, reporter)
        work.report["omitted"] = work.report.get("omitted", {}) | tell_size(config, work.objective, reporter).to_dict()
        check_again()  # minutes may have passed
        with replacement.new_run(run) as saved:
            _write_beginning(run, config, work)
            return _train(run, config, work, {}, Progress(), reporter, stop_after, saved)


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
    named, reporter = runtime.user_path(run, "the run"), reporter or NullReporter()
    _check_call(reporter, stop_after)
    changes = {} if changes is None else changes
    require_type(changes, "What should be changes", dict, "a dict of settings")
    with ExitStack() as stack:
        if into is None and (owned := resuming.run_of(named)) is not None and owned.is_dir():
            stack.enter_context(locks.own(owned))
            replacement.recover_run(owned)
        start = resuming.start_of(named, changes, kind, reporter)
        checkpoint, progress = start.checkpoint, start.progress
        run = resuming.choose_folder(named, start, into, drop_later)
        if into is not None:
            stack.enter_context(_room(into, start.config, [named], None))
        config, work = _set_up(_decide(start.config), run, reporter, checkpoint)
        if work.objective.data_hash != checkpoint.training["data"]:
            raise CheckpointError(
                f"The text of run {start.run or named} is not what it was: its data ({', '.join(start.config.data)}) "
                f"has the key {work.objective.data_hash[:12]} now and had {checkpoint.training['data'][:12]} then.",
                "Put the text back as it was, name the place it was moved to (--data), or begin a new run.",
            )
        if into is not None:
            with replacement.new_run(run) as saved:
                resuming.copy_start(start, run)
                _write_beginning(run, config, work)
                saved()
        resuming.set_aside_later(start, run, reporter)
        for kept in native.set_aside(run, progress.step):
            reporter.note(f"The incomplete checkpoint is kept as {kept}.")
        reporter.note(f"Going on with {run} from step {progress.step:,}.")
        _write_beginning(run, config, work)
        return _train(run, config, work, checkpoint.load_optimizer(), progress, reporter, stop_after)


def _write_beginning(run: Path, config: LoopSettings, work: TrainingSetup) -> None:
    """What a run's folder has from its beginning, written again when it goes on."""
    _mark(run, work)
    storage.write_output(run / "config.toml", config.to_toml())
    earlier: dict[str, Any] = {}
    if not work.report:  # tokens from the cache, of which no more is known
        with suppress(HandloomError):
            earlier = storage.read_json(run / "data.json")
    about = {"key": work.objective.data_hash, "folder": os.getcwd(), **earlier, **work.report}
    storage.write_output(run / "data.json", _as_json(about))
    work.tokenizer.save(run / "tokenizer")


def _set_up(
    config: LoopSettings, run: Path, reporter: Reporter, checkpoint: native.Checkpoint | None = None
) -> tuple[LoopSettings, TrainingSetup]:
    """What the settings ask for, made or, from a checkpoint, made again; with what they left open decided."""
    if isinstance(config, FinetuneConfig):
        return tuning.finetune_setup(config, run, reporter, checkpoint)
    assert isinstance(config, TrainConfig)
    return config, scratch.pretrain_setup(config, reporter, checkpoint)


def _train(
    run: Path,
    config: LoopSettings,
    work: TrainingSetup,
    optimizer_state: dict[str, torch.Tensor],
    progress: Progress,
    reporter: Reporter,
    stop_after: int | None,
    saved: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    def save(*checkpoint: Any) -> None:
        work.save(*checkpoint)
        saved()

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
        run, config, work.tokenizer, work.objective, work.model, optimizer, progress, reporter, save, work.reader
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
        "tokens_per_second": round(progress.tokens / progress.step_seconds, 1) if progress.step_seconds else None,
        "peak_memory_bytes": runtime.peak_memory_bytes(),
        "threads": trainer.config.threads,
        "precision": trainer.config.precision,
        "data": trainer.objective.data_hash,
        "versions": runtime.versions(),
        **(trainer.finding.details if trainer.finding else {}),
    }


def _as_json(value: dict[str, Any]) -> str:
    import json

    return json.dumps(value, indent=2) + "\n"


@contextmanager
def _room(
    run: Path, config: LoopSettings, reads: Sequence[Path], overwrite: bool | None
) -> Iterator[Callable[[], None]]:
    """Own the folder of a run that is to be made; yields what asks whether its earlier content may be replaced."""

    def all_read() -> Iterator[Path]:  # looked up only where there is something to replace
        yield from reads
        yield from read_by(config)

    def check() -> None:
        ownership.require_replaceable(run, all_read(), overwrite, "run")

    ownership.require_folder(run, "run")
    with locks.own(run):
        replacement.recover_run(run)
        check()
        yield check


def _mark(run: Path, work: TrainingSetup) -> None:
    """Mark the folder as a run of ours, and note in another run that this one needs a checkpoint of it."""
    with storage.explaining_os_errors(run):
        ownership.mark_run(run, work.needs[1] if work.needs else None)
    if work.needs:
        ownership.record_dependent(work.needs[0], run, work.needs[1])
        if not work.needs[0].exists():  # its run went on training and removed it, until it was noted above
            raise CheckpointError(
                f"{work.needs[0]} was removed while this run was prepared, and the run would go on needing it.",
                "Use the same command again; it takes the newest checkpoint.",
            )


def _decide(config: C) -> C:
    """Settle what depends on the machine, so that it is written down and stays."""
    threads = runtime.set_num_threads(config.threads)
    return dataclasses.replace(config, threads=threads, precision=runtime.choose_precision(config.precision))


def _describe(work: TrainingSetup, config: LoopSettings, reporter: Reporter) -> None:
    shape, parameters = work.model.config, sum(p.numel() for p in work.model.parameters())
    reporter.note(work.described)
    reporter.note(
        f"Model: {parameters:,} parameters, {pluralize(shape.layers, 'layer')}, {pluralize(shape.heads, 'head')}, "
        f"{shape.embed_dim} wide, context {shape.context_length}; {config.precision} on "
        f"{pluralize(config.threads or 1, 'thread')}."
    )


def _check_call(reporter: Reporter, stop_after: int | None) -> None:
    require_type(reporter, "The reporter", Reporter, "an object with the methods of training.report.Reporter")
    require_type(stop_after, "The step stop_after", (int, type(None)), "an int, or None to train to the end")
    if stop_after is not None and stop_after < 0:
        raise ConfigError(f"--stop-after is {stop_after}; it must be at least 0.", "Leave it out to train to the end.")
