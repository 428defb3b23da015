"""How a run is resumed: from which checkpoint, in which folder, with which settings."""

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
from handloom.errors import CheckpointError, ConfigError
from handloom.settings import require_known, setting_names
from handloom.training.config import FinetuneConfig, LoopSettings, TrainConfig, require_fields, settings_of
from handloom.training.loop import Progress
from handloom.training.metrics_log import METRICS
from handloom.training.progress import Reporter

RunConfig = TrainConfig | FinetuneConfig

CHANGEABLE = (
    "steps", "eval_every", "sample_every", "sample_prompts", "sample_tokens",
    "checkpoint_every", "keep_checkpoints", "tensorboard", "threads", "micro_batch_size",
    "gradient_checkpointing", "data",
)  # fmt: skip
"""Settings that may change when a run is resumed; with the others it would be another run. The data may be at another
place, and is compared by its hash with what the run was trained on."""

_CHANGE_ROUNDING = ("threads", "micro_batch_size")
"""Those of them that change the order of sums."""

_RECORDS = (METRICS, "samples.md", "loss.svg", "summary.json", "config.toml")
_TRAINER_STATE = {"settings": dict, "progress": dict, "versions": dict, "data": str, "tokenizer": str}


@dataclass
class Start:
    """Where a run is resumed from."""

    checkpoint: native.Checkpoint
    progress: Progress
    config: RunConfig
    run: Path | None
    """The run that the checkpoint is in; None for one that was copied out of its run."""
    later: list[int]
    """Steps of that run's checkpoints after this one, where a checkpoint was named."""


def run_of(folder: Path) -> Path | None:
    """The run that a checkpoint is in, if any; a run is its own."""
    if not (folder / storage.MANIFEST).is_file():
        return folder
    return folder.parent.parent if folder.absolute().parent.name == native.CHECKPOINTS else None


def start_of(named: Path, changes: dict[str, Any], kind: type[LoopSettings] | None, reporter: Reporter) -> Start:
    """Where the run or checkpoint `named` is resumed from.

    `changes` to settings take precedence over edits in the run's config.toml. `kind` is that of the settings where only
    such a run is meant. Raises HandloomError when there is nothing to resume, or a setting cannot change.
    """
    run = run_of(named)
    if run == named:
        checkpoint, passed_over = native.latest(run)
        for error in passed_over:
            reporter.warning(f"{error.problem} Resuming from {checkpoint.folder.name} instead.")
    else:
        checkpoint = native.open_checkpoint(named)
    settings, progress = _read_trainer_state(checkpoint)
    later = [] if run in (None, named) else [step for step in native.steps(run) if step > progress.step]
    if kind is not None and not isinstance(settings, kind):
        where, remedy = run or named, f"Resume it with `handloom {settings.command}`: `resume={run or named}`."
        if isinstance(settings, FinetuneConfig):
            problem = f"The run {where} finetunes the model {settings.model}; it was not begun from scratch."
            raise ConfigError(problem, remedy)
        problem = f"The run {where} was begun from scratch; it does not finetune a model."
        raise ConfigError(problem, f"{remedy} Or finetune its model: `model={where}`.")
    edits = _edits(run, settings, reporter) if run is not None else {}
    config = _changed(settings, {**edits, **changes}, progress)
    if config.steps != settings.steps or config.minutes != settings.minutes:
        progress.total = None
    _compare_versions(checkpoint, settings, config, reporter)
    config = _find_data(config, checkpoint, run or named, reporter)
    return Start(checkpoint, progress, config, run=run, later=later)


def choose_folder(named: Path, start: Start, into: Path | None, drop_later: bool) -> Path:
    """The folder to resume in: that of a new run, if `into` names one, or the run's own.

    Raises ConfigError when there is no run, or it has later checkpoints that may not be moved.
    """
    if into is not None:
        return into
    if start.run is None:
        raise ConfigError(f"{named} is a checkpoint outside of a run.", "Name the folder of a new run in `run`.")
    if drop_later and start.run == named:
        raise ConfigError(
            f"`drop_later` needs the checkpoint to resume from, and {named} is a run.",
            f"Name one of its checkpoints: {native.step_folder(named, start.progress.step)}.",
        )
    if start.later and not drop_later:
        steps = ", ".join(map(str, start.later))
        raise ConfigError(
            f"The run {start.run} has later checkpoints than step {start.progress.step}: {steps}.",
            "Resume in a new run (name it in `run`), or in this one with `drop_later=true`, which moves what is later "
            f"into its folder {ownership.DROPPED}.",
        )
    needed = ownership.dependents(start.run)
    for step in start.later:
        if (name := native.step_folder(start.run, step).name) in needed:
            raise ConfigError(
                f"{name} of {start.run} is not moved: {needed[name][0]} was trained from it and needs it.",
                "Resume in a new run (name it in `run`).",
            )
    return start.run


def set_aside_later(start: Start, run: Path, reporter: Reporter) -> None:
    """Move the checkpoints after the start, and a copy of all records, into a folder of their own in the run."""
    if run != start.run or not start.later:
        return
    name = f"after-step-{start.progress.step}"
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    aside = next(folder for each in names if not (folder := run / ownership.DROPPED / each).exists())
    with storage.explaining_os_errors(aside):
        (aside / native.CHECKPOINTS).mkdir(parents=True)
        for record in _RECORDS:
            if (run / record).is_file():
                shutil.copy2(run / record, aside / record)
        for step in start.later:
            shutil.move(native.step_folder(run, step), native.step_folder(aside, step))
    reporter.note(f"{len(start.later)} later checkpoints and a copy of the records were moved to {aside}.")


def copy_start(start: Start, new: Path) -> None:
    """Give a new run the checkpoint it is resumed from, the best one until then, and the records up to there."""
    copied = {start.progress.step: start.checkpoint.folder}
    best = start.progress.best_step
    if start.run is not None and best is not None and (folder := native.step_folder(start.run, best)).is_dir():
        copied[best] = folder
    for step, folder in sorted(copied.items()):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        with storage.atomic_folder(native.step_folder(new, step), size) as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            (copy / storage.MANIFEST).unlink()
    for name in (METRICS, "data.json"):
        if start.run is not None and (start.run / name).is_file():
            storage.write_output(new / name, (start.run / name).read_bytes())


def _read_trainer_state(checkpoint: native.Checkpoint) -> tuple[RunConfig, Progress]:
    """The settings and the progress in a checkpoint. Raises CheckpointError for what this version does not support."""
    where, state = checkpoint.folder / "training.json", checkpoint.training
    try:
        for name, kind in _TRAINER_STATE.items():
            if not isinstance(state[name], kind):
                raise TypeError(f"{name} is not a {kind.__name__}")
        settings, values = settings_of(state["settings"]), dict(state["progress"])
        if not isinstance(values["step"], int):
            raise TypeError("step is not an int")
        require_fields(Progress, values, "The progress holds")
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
    """The settings in the run's config.toml that differ from its checkpoint, since a person edited them."""
    file = run / "config.toml"
    if not file.is_file():
        return {}
    written = dataclasses.asdict(type(settings).merged(file, {}))
    edits = {name: value for name, value in written.items() if value != getattr(settings, name)}
    if "steps" in edits and edits.get("minutes", 0) is None:
        del edits["minutes"]  # the one replaces the other
    _require_changeable(edits, settings, f" (edited in {file})")
    changed = [f"{name} is {_shown(value)}, was {_shown(getattr(settings, name))}" for name, value in edits.items()]
    if changed:
        reporter.note(f"Edited in {file}: {'; '.join(changed)}.")
    return edits


def _require_changeable(values: dict[str, Any], settings: RunConfig, where: str = "") -> None:
    require_known(values, setting_names(type(settings)))
    if fixed := [name for name in values if name not in CHANGEABLE]:
        changes = [f"from {_shown(getattr(settings, name))} to {_shown(values[name])}" for name in fixed]
        others = [f"{name} {change}" for name, change in zip(fixed[1:], changes[1:], strict=True)]
        raise ConfigError(
            f"{fixed[0]} cannot change {', nor '.join([changes[0], *others])} when a run is resumed{where}.",
            f"Leave that as it was, or begin a new run. These may change: {', '.join(CHANGEABLE)}.",
        )


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(list(value) if isinstance(value, tuple) else value)


def _changed(settings: RunConfig, changes: dict[str, Any], progress: Progress) -> RunConfig:
    _require_changeable(changes, settings)
    if changes.get("steps") is not None:
        changes = {**changes, "minutes": None}
    config = dataclasses.replace(settings, **changes)
    if config.steps is not None and config.steps < progress.step:
        raise ConfigError(
            f"The run has done {progress.step} steps; steps cannot be {config.steps}.",
            "Raise `steps`, or resume from an earlier checkpoint, RUN/checkpoints/step-N.",
            setting="steps",
        )
    return config


def _find_data(config: RunConfig, checkpoint: native.Checkpoint, run: Path, reporter: Reporter) -> RunConfig:
    """The settings with data that was named from another folder found from here. Raises CheckpointError for data that
    is gone, and its tokens from the cache too."""
    found = find_again(config.data, run)
    gone = unrepeatable(found)
    if gone and not is_prepared(checkpoint.training["data"]):
        raise CheckpointError(
            f"The run {run} trains on {', '.join(gone)}, which cannot be read again.",
            "If it was moved or renamed, name its new place in `data`; the text is compared with what it was.",
            setting="data",
        )
    if gone:
        reporter.note(f"{', '.join(gone)} cannot be read again; the tokens are still in the cache.")
    return dataclasses.replace(config, data=found)


def _compare_versions(
    checkpoint: native.Checkpoint, settings: LoopSettings, config: LoopSettings, reporter: Reporter
) -> None:
    now: dict[str, Any] = runtime.versions() | {name: getattr(config, name) for name in _CHANGE_ROUNDING}
    then = {**checkpoint.training["versions"], **{name: getattr(settings, name) for name in _CHANGE_ROUNDING}}
    for name, value in then.items():
        if now.get(name) != value:
            before, after = ("unset" if each is None else each for each in (value, now.get(name)))
            reporter.warning(
                f"This run began with {name} {before} and goes on with {after}: the last bits may differ from "
                "those of a run without a stop."
            )
