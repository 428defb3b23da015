"""handloom train"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from handloom.cli.flags import ESSENTIAL, RUN, PathFlag, flags_of, given
from handloom.errors import ConfigError
from handloom.training.config import TrainConfig, merge

if TYPE_CHECKING:
    from handloom.training.config import LoopSettings
    from handloom.training.progress import TerminalReporter

TrainFlags: Any = flags_of(TrainConfig)


def train(
    *,
    run: Annotated[PathFlag | None, ESSENTIAL] = None,
    resume: Annotated[PathFlag | None, RUN] = None,
    config: Annotated[PathFlag | None, RUN] = None,
    overwrite: Annotated[bool, RUN] = False,
    stop_after: Annotated[int | None, RUN] = None,
    drop_later: Annotated[bool, RUN] = False,
    flags: Annotated[TrainFlags, Parameter(name="*")] = TrainFlags(),  # noqa: B008 - cyclopts wants an instance
) -> None:
    """Train a GPT from scratch on text, or go on with a run that was stopped.

    A setting is its default, overruled by the --config file, overruled by its flag.

    Parameters
    ----------
    run
        Folder of the new run [default: runs/ and the present time].
    resume
        Go on with this run instead, bit for bit as if it had never stopped; or from one of its checkpoints,
        RUN/checkpoints/step-N. With --run in a new folder, and the old one stays as it is.
    config
        TOML file of settings, `name = value` for any flag below.
    overwrite
        Replace the run that is in the folder, once the new one has saved its first checkpoint.
    stop_after
        Stop after this step as Ctrl-C would: saved, and ready to go on. 0 stops before the first.
    drop_later
        Go on from the checkpoint that --resume names although the run has later ones: they are moved into its
        folder `dropped`.
    """
    settings = given(flags)
    merged = merge(config, settings) if resume is None else None  # refused before torch is imported
    begin_or_resume(TrainConfig, merged, settings, run, resume, config, overwrite, stop_after, drop_later)


def begin_or_resume(
    kind: type[LoopSettings],
    merged: LoopSettings | None,
    changes: dict[str, Any],
    run: Path | None,
    resume: Path | None,
    config: Path | None,
    overwrite: bool,
    stop_after: int | None,
    drop_later: bool,
) -> None:
    """Train as the flags of `handloom train` or `handloom finetune` say, and tell what came of it.

    Args:
        kind: of the settings of the command's runs.
        merged: the settings of a new run; None to go on with one.
        changes: settings that a run that goes on may change.
        run, resume, config, overwrite, stop_after, drop_later: the flags.

    Raises:
        HandloomError: as `training.run` does, or for flags that contradict each other.
    """
    if resume is not None and (config is not None or overwrite):
        raise ConfigError(
            "--resume goes on with a run as it is; --config and --overwrite are for new runs.",
            f"Use --resume {resume} alone, or with the flags that a run may change.",
        )
    if resume is None and drop_later:
        raise ConfigError("--drop-later is for a run that goes on.", "Add --resume RUN/checkpoints/step-N.")
    from handloom.training import run as runs
    from handloom.training.progress import TerminalReporter
    from handloom.training.resuming import run_of

    with TerminalReporter() as terminal:
        if resume is not None:
            folder = run or run_of(resume) or resume
            summary = runs.resume(
                resume, terminal, changes=changes, stop_after=stop_after, kind=kind, into=run, drop_later=drop_later
            )
        else:
            assert merged is not None
            with _folder_of_new_run(run) as folder:
                reads = [] if config is None else [config]
                summary = runs.begin(folder, merged, terminal, overwrite=overwrite, stop_after=stop_after, reads=reads)
    conclude(folder, summary, terminal)


def conclude(run: Path, summary: dict[str, Any], terminal: TerminalReporter) -> None:
    """Say what the run came to and what to type next."""
    from rich.text import Text

    from handloom.training.progress import clock

    console = terminal.console
    took, folder = clock(summary["train_seconds"]), shlex.quote(str(run))
    if not summary["finished"]:
        console.print(f"\nStopped after step {summary['steps']:,} ({took}); everything is saved. Go on with:")
        command = "finetune" if "base" in summary else "train"
        console.print(f"\n    handloom {command} --resume {folder}\n", style="bold", soft_wrap=True)
        return
    if summary["predicted_seconds"]:
        took += f" ({clock(summary['predicted_seconds'])} were predicted)"
    speed, memory = summary["tokens_per_second"], summary["peak_memory_bytes"] / 1e6
    console.print(
        Text.assemble(
            f"\n{summary['steps']:,} steps in {took}: ",
            (found(summary), "bold cyan"),
            f" on held-out text, {speed:,.0f} tokens/s, {memory:,.0f} MB at most.",
        )
    )
    if "confusion" in summary:
        from handloom.cli.labels_view import print_labels

        print_labels(console, summary)
    what, command = "Write with it:", f'handloom generate "The" --model {folder} --stream'
    if summary.get("task") == "classify":
        what, command = "Use it:", f'handloom classify "Some text" --model {folder}'
    elif summary.get("template"):
        what, command = "Talk to it:", f"handloom chat {folder}"
    console.print(f"Plot, samples and settings are in the run's folder. {what}")
    console.print(f"\n    {command}\n", style="bold", soft_wrap=True)


def found(summary: dict[str, Any]) -> str:
    """What the last validation found, in the terms of the task."""
    if summary.get("val_bits_per_byte") is not None:
        return f"{summary['val_bits_per_byte']:.3f} bits per byte"
    if summary.get("val_accuracy") is not None:
        return f"accuracy {summary['val_accuracy']:.1%}"
    return f"loss {summary['val_loss']:.3f}"


@contextmanager
def _folder_of_new_run(asked: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or one with the present time as its name.

    The latter is made at once, so that of two runs that begin in the same second each has its own. It goes away again
    when the run cannot begin.
    """
    if asked is not None:
        yield asked
        return
    first = not Path("runs").exists()
    now = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    for number in itertools.count(1):
        folder = Path("runs") / (now if number == 1 else f"{now}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.parent.is_dir():
                continue
        except OSError:
            pass  # the run will say what is wrong, with the remedy
        break
    try:
        yield folder
    finally:
        with suppress(OSError):  # which a folder that is not empty raises
            folder.rmdir()
            if first:
                folder.parent.rmdir()
