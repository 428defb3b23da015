"""A run folder from its settings to its summary: begin a run, or resume one."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handloom import locks, ownership, replacement, runtime, storage
from handloom.checkpoints import native
from handloom.console import pluralize
from handloom.data.builtin import BUILTIN
from handloom.data.omissions import Omissions
from handloom.data.sources import files_of
from handloom.errors import CheckpointError, ConfigError, HandloomError, require_type
from handloom.loading import find_model, folders_of
from handloom.screen import NAMES, shielded
from handloom.training import resuming
from handloom.training.config import STEPS, FinetuneConfig, LoopSettings, TrainConfig
from handloom.training.finetune_setup import finetune_setup
from handloom.training.loop import Progress, Trainer
from handloom.training.progress import Reporter, report_sentences
from handloom.training.setup import TrainingSetup, pretrain_setup, tuned_for_training
from handloom.training.signals import stop_on_signals
from handloom.training.tasks import batch_size_for


@contextmanager
def _preserving_torch_state() -> Iterator[None]:
    """Restore torch's global generator and number of threads after the block."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(threads)


@_preserving_torch_state()
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
    """Train a model: from scratch with a `TrainConfig`, or a pretrained one with a `FinetuneConfig`.

    The folder `run` gets settings, metrics, samples, plot, checkpoints and the summary, which is returned. Raises
    HandloomError for settings, data or a disk that do not allow it.

    Args:
        overwrite: whether an existing run may be replaced. It is removed when the new run has saved its first
            checkpoint, and comes back if that fails.
        stop_after: stop after this step, as Ctrl-C would.
        reads: files that are read besides those that the settings name, such as the file of settings.
    """
    folder, reporter = runtime.user_path(run, "the run"), reporter or Reporter()
    _check_call(reporter, stop_after)
    require_type(config, "What should be settings", (TrainConfig, FinetuneConfig), "a TrainConfig or a FinetuneConfig")
    with _new_folder(folder, config, reads, overwrite) as require_replaceable:
        session = _Session.prepare(folder, config, reporter)
        session.describe()
        require_replaceable()  # minutes may have passed
        with replacement.new_run(folder) as saved:
            session.write_files()
            return session.train(Progress(), stop_after, on_save=saved)


@_preserving_torch_state()
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
    """Resume a run from its newest complete checkpoint, with the very bits that it would have had without a stop.

    `run` may also be one of its checkpoints. Edits of its config.toml hold, as far as settings may change. Returns the
    summary. Raises HandloomError when there is nothing to resume, or the training data has changed.

    Args:
        changes: settings to change; only those in `resuming.CHANGEABLE`.
        stop_after: stop after this step, as Ctrl-C would.
        kind: of its settings, where only such a run is meant; None for any.
        into: the folder of a new run to resume in, which leaves the old one as it is.
        drop_later: whether checkpoints later than the one named may be moved out of the way.
    """
    named, reporter = runtime.user_path(run, "the run"), reporter or Reporter()
    _check_call(reporter, stop_after)
    changes = {} if changes is None else changes
    require_type(changes, "What should be changes", dict, "a dict of settings")
    with ExitStack() as stack:
        if into is None and (owned := resuming.run_of(named)) is not None and owned.is_dir():
            stack.enter_context(locks.own(owned))
            replacement.recover_run(owned)
        start = resuming.start_of(named, changes, kind, reporter)
        folder = resuming.choose_folder(named, start, into, drop_later)
        if into is not None:
            stack.enter_context(_new_folder(into, start.config, [named], None))
        session = _Session.prepare(folder, start.config, reporter, start.checkpoint)
        now, before = session.setup.objective.data_hash, start.checkpoint.training["data"]
        if now != before:
            raise CheckpointError(
                f"The training data of run {start.run or named} ({', '.join(start.config.data)}) has changed (hash "
                f"{now[:12]}, expected {before[:12]}).",
                "Put the text back as it was, name the place it was moved to in `data`, or begin a new run.",
            )
        if into is not None:
            with replacement.new_run(folder) as saved:
                resuming.copy_start(start, folder)
                session.write_files()
                saved()
        resuming.set_aside_later(start, folder, reporter)
        for kept in native.set_aside(folder, start.progress.step):
            reporter.note(f"The incomplete checkpoint is kept as {kept}.")
        reporter.note(f"Resuming {folder} from step {start.progress.step:,}.")
        session.write_files()
        return session.train(start.progress, stop_after, start.checkpoint)


@dataclass
class _Session:
    """One session of training in a run folder."""

    run: Path
    setup: TrainingSetup
    reporter: Reporter

    @classmethod
    def prepare(
        cls, run: Path, config: LoopSettings, reporter: Reporter, checkpoint: native.Checkpoint | None = None
    ) -> _Session:
        """Decide what depends on the machine, so that it is written down and stays; then set up what is trained."""
        config = config if checkpoint else tuned_for_training(config, reporter.note)
        threads = runtime.set_num_threads(config.threads)
        config = dataclasses.replace(config, threads=threads, precision=runtime.choose_precision(config.precision))
        if isinstance(config, FinetuneConfig):
            return cls(run, finetune_setup(config, run, reporter, checkpoint), reporter)
        assert isinstance(config, TrainConfig)
        return cls(run, pretrain_setup(config, reporter, checkpoint), reporter)

    def describe(self) -> None:
        """Report data, model and the relation of steps to data; count in the stats what no step reaches."""
        setup, config, shape = self.setup, self.setup.config, self.setup.model.config
        parameters = sum(p.numel() for p in setup.model.parameters())
        self.reporter.note(setup.data.description)
        self.reporter.note(
            f"Model: {parameters:,} parameters, {pluralize(shape.layers, 'layer')}, {pluralize(shape.heads, 'head')}, "
            f"embed_dim {shape.embed_dim}, context_length {shape.context_length}; {config.precision} on "
            f"{pluralize(config.threads or 1, 'thread')}."
        )
        rows = round(setup.objective.steps_per_epoch * config.batch_size)
        if rows < config.batch_size:
            self.reporter.warning(
                f"The data has {pluralize(rows, 'row')}, fewer than the batch of {config.batch_size}, so each step "
                f"repeats rows. `batch_size={batch_size_for(rows)}` suits so little data."
            )
        omissions = Omissions()
        if config.minutes is None and (left := rows - (config.steps or STEPS) * config.batch_size) > 0:
            omissions.add("unreached", number=left)
        report_sentences(omissions.sentences(), self.reporter)
        setup.data.stats["omitted"] = setup.data.stats.get("omitted", {}) | omissions.to_dict()

    def write_files(self) -> None:
        """What a run's folder has from its beginning, written again when it is resumed."""
        run, setup, data = self.run, self.setup, self.setup.data
        fingerprint = setup.base.fingerprint if setup.base and setup.needs else None
        with storage.explaining_os_errors(run):
            ownership.mark_run(run, fingerprint)
        if setup.needs and fingerprint:
            ownership.record_dependent(setup.needs, run, fingerprint)
            if not setup.needs.exists():  # its run was training, and removed it before it was recorded above
                raise CheckpointError(
                    f"{setup.needs} was removed while this run was prepared, and the run would go on needing it.",
                    "Use the same command again; it takes the newest checkpoint.",
                )
        storage.write_output(run / "config.toml", setup.config.to_toml())
        # tokens from the cache, of which no more is known, have no stats
        earlier = {} if data.stats else _read_earlier(run / "data.json")
        about = {"key": data.objective.data_hash, "folder": os.getcwd(), **earlier, **data.stats}
        storage.write_output(run / "data.json", _json(about))
        setup.tokenizer.save(run / "tokenizer")

    def train(
        self,
        progress: Progress,
        stop_after: int | None,
        checkpoint: native.Checkpoint | None = None,
        on_save: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Train from `progress` on, with the optimizer's state of a checkpoint; returns the summary."""
        trainer = Trainer(self.run, self.setup, progress, self.reporter, on_save=on_save)
        if checkpoint is not None:
            trainer.optimizer.load_state_tensors(checkpoint.load_optimizer())
        with stop_on_signals(lambda: self.reporter.note("Stopping here and saving. Again: stop at once.")) as request:
            finished = trainer.train(request, stop_after)
            # resumed, and not validated since: the earlier results still hold
            earlier = {} if trainer.last_result else _read_earlier(self.run / "summary.json")
            summary = {**earlier, **summarize(trainer, finished), **self.setup.summary}
            storage.write_output(self.run / "summary.json", _json(summary))
            return summary


def summarize(trainer: Trainer, finished: bool) -> dict[str, Any]:
    """The results of a run, as plain values."""
    progress, validations = trainer.progress, trainer.log.of_kind("validation")
    last = validations[-1] if validations else {}
    return {
        "finished": finished,
        "steps": progress.step,
        "total_steps": progress.total,
        "tokens": progress.tokens,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "val_loss": None,
        **{f"val_{name}": value for name, value in last.items() if name not in ("kind", "step", "seconds")},
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
        **(trainer.last_result.details if trainer.last_result else {}),
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _read_earlier(file: Path) -> dict[str, Any]:
    with suppress(HandloomError):
        return storage.read_json(file)
    return {}


@contextmanager
def _new_folder(
    run: Path, config: LoopSettings, reads: Sequence[Path], overwrite: bool | None
) -> Iterator[Callable[[], None]]:
    """Own the folder of a run that is to be made; yields the check whether its earlier content may be replaced."""

    def inputs() -> Iterator[Path]:  # looked up only where there is something to replace
        assert isinstance(config, TrainConfig | FinetuneConfig)
        yield from reads
        for name in config.data:
            if name != "-" and name not in BUILTIN:
                yield from files_of(name)
        if isinstance(config, FinetuneConfig):
            yield from folders_of(find_model(config.model, lambda note: None))
        else:
            yield Path(config.tokenizer)

    def check() -> None:
        ownership.require_replaceable(run, inputs(), overwrite, "run")

    ownership.require_folder(run, "run")
    with locks.own(run):
        replacement.recover_run(run)
        check()
        yield check


def _check_call(reporter: Reporter, stop_after: int | None) -> None:
    require_type(reporter, "The reporter", Reporter, "an object with the methods of training.progress.Reporter")
    require_type(stop_after, "The step stop_after", (int, type(None)), "an int, or None to train to the end")
    if stop_after is not None and stop_after < 0:
        raise ConfigError(
            f"stop_after is {stop_after}; it must be at least 0.", "Leave `stop_after` out to train to the end."
        )
