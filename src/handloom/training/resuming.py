"""How a run goes on: from which checkpoint, in which folder, with which settings."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom import ownership, runtime, storage
from handloom.checkpoints import native
from handloom.data.sources import find_again, unrepeatable
from handloom.data.tokenized import is_prepared
from handloom.errors import CheckpointError, ConfigError, did_you_mean
from handloom.settings import merge_settings
from handloom.training.config import FinetuneConfig, LoopSettings, TrainConfig, require_known, settings_of
from handloom.training.loop import Progress
from handloom.training.metrics_log import METRICS
from handloom.training.progress import Reporter

RunConfig = TrainConfig | FinetuneConfig

CHANGEABLE = (
    "steps", "eval_every", "sample_every", "sample_prompts", "sample_tokens",
    "checkpoint_every", "keep_checkpoints", "tensorboard", "threads", "micro_batch_size", "data",
)  # fmt: skip
"""Settings that may be other ones when a run goes on; the rest would make it another run. The data may be found at
another place, and is held against the key of what the run learned from."""

_BITS = ("threads", "micro_batch_size")
"""Those of them with which sums are taken in another order."""


@dataclass
class Start:
    """Where a run goes on from."""

    checkpoint: native.Checkpoint
    progress: Progress
    config: RunConfig
    run: Path | None
    """The run that the checkpoint lies in; None for one that was copied out of its run."""
    later: list[int]
    """Steps of that run's checkpoints beyond this one, where a checkpoint was named."""


def run_of(folder: Path) -> Path | None:
    """The run that a checkpoint lies in; None where it lies in none. A run is its own."""
    if not (folder / storage.MANIFEST).is_file():
        return folder
    above = folder.absolute().parent
    return folder.parent.parent if above.name == native.CHECKPOINTS else None


def start_of(named: Path, changes: dict[str, Any], kind: type[LoopSettings] | None, reporter: Reporter) -> Start:
    """What a run folder, or a checkpoint in one, has to go on from.

    Args:
        named: either of them.
        changes: settings that were given; they go before those that were edited in the run's config.toml.
        kind: of its settings, where only such a run is meant; None for any.
        reporter: told what is not as it was.

    Raises:
        HandloomError: when there is nothing to go on from, or a setting cannot change.
    """
    run, later = run_of(named), []
    if run is not None and run == named:
        checkpoint, passed_over = native.latest(run)
        for error in passed_over:
            reporter.warning(f"{error.problem} Going on from {checkpoint.folder.name} instead.")
    else:
        checkpoint = native.open_checkpoint(named)
    settings, progress = _read_training(checkpoint)
    if run is not None and run != named:
        later = [step for step in native.steps(run) if step > progress.step]
    if kind is not None and not isinstance(settings, kind):
        raise _of_another_kind(run or named, settings)
    edits = _edits(run, settings, reporter) if run is not None else {}
    config = _changed(settings, {**edits, **changes}, progress)
    if config.steps != settings.steps or config.minutes != settings.minutes:
        progress.total = None
    _compare_versions(checkpoint, settings, config, reporter)
    config = _with_data_found(config, checkpoint, run or named, reporter)
    return Start(checkpoint, progress, config, run, later)


def choose_folder(named: Path, start: Start, into: Path | None, drop_later: bool) -> Path:
    """The folder to go on in.

    Args:
        named: what was named, a run or a checkpoint.
        start: what it has to go on from.
        into: a new run's folder, if one was asked for.
        drop_later: whether later checkpoints may be set aside.

    Raises:
        ConfigError: when the checkpoint is not the last of its run, and nobody says what is to become of the others.
    """
    if into is not None:
        return into
    if start.run is None:
        raise ConfigError(
            f"{named} is a checkpoint outside of a run.", "Name a folder for a run that goes on from it: --run NEW."
        )
    if drop_later and start.run == named:
        raise ConfigError(
            f"--drop-later needs the checkpoint to go on from, and {named} is a run.",
            f"Name one of its checkpoints: {native.step_folder(named, start.progress.step)}.",
        )
    if start.later and not drop_later:
        steps = ", ".join(map(str, start.later))
        raise ConfigError(
            f"The run {start.run} has later checkpoints than step {start.progress.step}: {steps}.",
            "Go on in a new run (--run NEW), or in this one with --drop-later, which moves what is later into its "
            f"folder {_DROPPED}.",
        )
    needed = ownership.dependents(start.run)
    for step in start.later:
        if (name := native.step_folder(start.run, step).name) in needed:
            raise ConfigError(
                f"{name} of {start.run} is not moved: {needed[name][0]} was trained from it and needs it.",
                "Go on in a new run (--run NEW).",
            )
    return start.run


_DROPPED = ownership.DROPPED
_RECORDS = (METRICS, "samples.md", "loss.svg", "summary.json", "config.toml")


def set_aside_later(start: Start, run: Path, reporter: Reporter) -> None:
    """Move the checkpoints beyond the start, and a copy of all records, into a folder of the run of their own.

    Raises:
        CheckpointError: when the disk refuses.
    """
    if run != start.run or not start.later:
        return
    name = f"after-step-{start.progress.step}"
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    aside = next(folder for each in names if not (folder := run / _DROPPED / each).exists())
    try:
        (aside / native.CHECKPOINTS).mkdir(parents=True)
        for record in _RECORDS:
            if (run / record).is_file():
                shutil.copy2(run / record, aside / record)
        for step in start.later:
            shutil.move(native.step_folder(run, step), native.step_folder(aside, step))
    except OSError as error:
        raise storage.explain_os_error(error, aside) from error
    reporter.note(f"{len(start.later)} later checkpoints and a copy of the records were moved to {aside}.")


def copy_start(start: Start, new: Path) -> None:
    """Give a new run the checkpoint that it goes on from, the best one until then, and the records up to there.

    Raises:
        CheckpointError: when the disk refuses.
    """
    copied = {start.progress.step: start.checkpoint.folder}
    best = start.progress.best_step
    if start.run is not None and best is not None and (folder := native.step_folder(start.run, best)).is_dir():
        copied[best] = folder
    for step, folder in sorted(copied.items()):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        with storage.atomic_folder(native.step_folder(new, step), size) as whole:
            shutil.copytree(folder, whole, dirs_exist_ok=True)
            (whole / storage.MANIFEST).unlink()
    for name in (METRICS, "data.json"):
        if start.run is not None and (start.run / name).is_file():
            storage.write_output(new / name, (start.run / name).read_bytes())


_TRAINING = {"settings": dict, "progress": dict, "versions": dict, "data": str, "tokenizer": str}


def _read_training(checkpoint: native.Checkpoint) -> tuple[RunConfig, Progress]:
    """The settings and the progress that a checkpoint tells.

    Raises:
        CheckpointError: for something that this version does not know, by name.
    """
    where = checkpoint.folder / "training.json"
    try:
        for name, kind in _TRAINING.items():
            if not isinstance(checkpoint.training[name], kind):
                raise TypeError(f"{name} is no {kind.__name__}")
        settings = settings_of(checkpoint.training["settings"])
        values = dict(checkpoint.training["progress"])
        if not isinstance(values["step"], int):
            raise TypeError("step is no int")
        require_known(Progress, values, "The progress holds")
        if values["best_loss"] is None:
            del values["best_loss"]
        return settings, Progress(**values)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error.problem}", error.remedy) from None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where} is not as this version of Handloom writes it: {error}.",
            "Use the version of Handloom that wrote it.",
        ) from None


def _edits(run: Path, settings: RunConfig, reporter: Reporter) -> dict[str, Any]:
    """What the run's config.toml says otherwise than its checkpoint, since somebody edited it.

    Raises:
        ConfigError: for a setting that cannot change, or a file that cannot be read.
    """
    file = run / "config.toml"
    if not file.is_file():
        return {}
    command = "finetune" if isinstance(settings, FinetuneConfig) else "train"
    written = dataclasses.asdict(merge_settings(type(settings), file, {}, command))
    edits = {name: value for name, value in written.items() if value != getattr(settings, name)}
    if "steps" in edits and edits.get("minutes", 0) is None:
        del edits["minutes"]  # the one takes the other's place
    _refuse_fixed(edits, settings, f" (edited in {file})")
    if edits:
        changed = [f"{name} is {_shown(value)}, was {_shown(getattr(settings, name))}" for name, value in edits.items()]
        reporter.note(f"As {file} has it now: {'; '.join(changed)}.")
    return edits


def _refuse_fixed(values: dict[str, Any], settings: RunConfig, where: str = "") -> None:
    known = [field.name for field in dataclasses.fields(settings)]
    for name in values:
        if name not in known:
            remedy = did_you_mean(str(name), known) or f"These may change: {', '.join(CHANGEABLE)}."
            raise ConfigError(f"There is no setting {name!r}.", remedy)
    told = [
        f"{name} from {_shown(getattr(settings, name))} to {_shown(value)}"
        for name, value in values.items()
        if name not in CHANGEABLE
    ]
    if told:
        first, _, of = told[0].partition(" ")
        raise ConfigError(
            f"{first} cannot change {', nor '.join([of, *told[1:]])} when a run goes on{where}.",
            f"Leave that as it was, or begin a new run. These may change: {', '.join(CHANGEABLE)}.",
        )


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(list(value) if isinstance(value, tuple) else value)


def _changed(settings: RunConfig, changes: dict[str, Any], progress: Progress) -> RunConfig:
    _refuse_fixed(changes, settings)
    if changes.get("steps") is not None:
        changes = {**changes, "minutes": None}
    config = dataclasses.replace(settings, **changes)
    if config.steps is not None and config.steps < progress.step:
        raise ConfigError(
            f"The run has done {progress.step} steps; steps cannot be {config.steps}.",
            "Give a larger number, or go on from an earlier checkpoint: --resume RUN/checkpoints/step-N.",
        )
    return config


def _with_data_found(config: RunConfig, checkpoint: native.Checkpoint, run: Path, reporter: Reporter) -> RunConfig:
    """The settings with data that was named from another folder found from here.

    Raises:
        CheckpointError: for data that is not there any more, nor its tokens in the cache.
    """
    found = find_again(config.data, run)
    gone = unrepeatable(found)
    if gone and not is_prepared(checkpoint.training["data"]):
        raise CheckpointError(
            f"The run {run} learns from {', '.join(gone)}, which cannot be read again.",
            f"If it was moved or renamed, name its place now; the text is compared with what it was: --resume {run} "
            "--data FILE",
        )
    if gone:
        reporter.note(f"{', '.join(gone)} cannot be read again; the tokens are in the cache still.")
    return dataclasses.replace(config, data=found)


def _of_another_kind(run: Path, settings: LoopSettings) -> ConfigError:
    if isinstance(settings, FinetuneConfig):
        return ConfigError(
            f"The run {run} tunes the model {settings.model}; it was not begun from scratch.",
            f"Go on with it by: handloom finetune --resume {run}",
        )
    return ConfigError(
        f"The run {run} was begun from scratch; it tunes no model.",
        f"Go on with it by `handloom train --resume {run}`, or tune what it came to: "
        f"handloom finetune --model {run} --data FILE",
    )


def _compare_versions(
    checkpoint: native.Checkpoint, settings: LoopSettings, config: LoopSettings, reporter: Reporter
) -> None:
    now: dict[str, Any] = runtime.versions() | {name: getattr(config, name) for name in _BITS}
    for name, then in {**checkpoint.training["versions"], **{name: getattr(settings, name) for name in _BITS}}.items():
        if now.get(name) != then:
            before, after = ("unset" if value is None else value for value in (then, now.get(name)))
            reporter.warning(
                f"This run began with {name} {before} and goes on with {after}: the last bits may differ from "
                "those of a run without a stop."
            )
