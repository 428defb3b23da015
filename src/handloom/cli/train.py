"""handloom train"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from handloom.cli.flags import flags_of, given
from handloom.errors import ConfigError
from handloom.settings import Settings, setting
from handloom.training.config import TrainConfig

if TYPE_CHECKING:
    from handloom.training.config import LoopSettings
    from handloom.training.progress import TerminalReporter

_run = partial(setting, group="Run")


@dataclass(frozen=True)
class RunOptions(Settings):
    """Where a run is, and whether it begins or goes on: what `train` and `finetune` have in common."""

    run: str | None = setting(
        None, "Folder of the new run; None: runs/ and the present time.", group="Essentials", path=True
    )
    config: str | None = _run(None, "TOML file of settings, `name = value` for any flag of this command.", path=True)
    resume: str | None = _run(
        None,
        "Resume this run instead, with the very bits that it would have had without a stop; or one of its checkpoints, "
        "RUN/checkpoints/step-N. With a new `run`, the old one stays as it is.",
        path=True,
    )
    stop_after: int | None = _run(
        None, "Stop after this step as Ctrl-C would: saved, and ready to resume. 0 stops before the first.", at_least=0
    )
    drop_later: bool = _run(
        False, "With `resume` of a checkpoint: move the run's later checkpoints into its folder dropped."
    )
    overwrite: bool = _run(False, "Replace the run in the folder, once the new one has saved its first checkpoint.")

    def check_together(self) -> None:
        """Raise ConfigError for options of a new run and of a resumed one together."""
        if self.resume is not None and (self.config is not None or self.overwrite):
            raise ConfigError(
                "`resume` goes on with a run as it is; `config` and `overwrite` are for new runs.",
                f"Use `resume={self.resume}` alone, or with the settings that a run may change.",
            )
        if self.resume is None and self.drop_later:
            raise ConfigError("`drop_later` is for a run that is resumed.", "Add `resume=RUN/checkpoints/step-N`.")


RunFlags: Any = flags_of(RunOptions)
TrainFlags: Any = flags_of(TrainConfig)


def train(
    *,
    flags: Annotated[TrainFlags, Parameter(name="*")] = TrainFlags(),  # noqa: B008 - cyclopts wants an instance
    options: Annotated[RunFlags, Parameter(name="*")] = RunFlags(),  # noqa: B008
) -> None:
    """Train a GPT from scratch on text, or resume a run that was stopped.

    A setting is its default, overruled by the --config file, overruled by its flag.
    """
    begin_or_resume(TrainConfig, given(flags), RunOptions(**given(options)))


def begin_or_resume(kind: type[LoopSettings], changes: dict[str, Any], options: RunOptions) -> None:
    """Train as the flags of `handloom train` or `handloom finetune` have it, and print the result.

    `changes` are the settings that were given as flags.
    """
    config = Path(options.config) if options.config is not None else None
    merged = kind.merged(config, changes) if options.resume is None else None  # refused before torch is imported
    from handloom.training import run as runs
    from handloom.training.progress import TerminalReporter
    from handloom.training.resuming import run_of

    run = Path(options.run) if options.run is not None else None
    with TerminalReporter() as terminal:
        if options.resume is not None:
            resumed = Path(options.resume)
            folder = run or run_of(resumed) or resumed
            summary = runs.resume(
                resumed,
                terminal,
                changes=changes,
                stop_after=options.stop_after,
                kind=kind,
                into=run,
                drop_later=options.drop_later,
            )
        else:
            assert merged is not None
            reads = [] if config is None else [config]
            with _folder_of_new_run(run) as folder:
                overwrite, stop_after = options.overwrite, options.stop_after
                summary = runs.begin(folder, merged, terminal, overwrite=overwrite, stop_after=stop_after, reads=reads)
    conclude(folder, summary, terminal)


def conclude(run: Path, summary: dict[str, Any], terminal: TerminalReporter) -> None:
    """Print the result of a run and what to type next."""
    from rich.text import Text

    from handloom.training.progress import clock

    console = terminal.console
    took, folder = clock(summary["train_seconds"]), shlex.quote(str(run))
    if not summary["finished"]:
        console.print(f"\nStopped after step {summary['steps']:,} ({took}); everything is saved. Resume with:")
        command = "finetune" if "base" in summary else "train"
        console.print(f"\n    handloom {command} --resume {folder}\n", style="bold", soft_wrap=True)
        return
    if summary["predicted_seconds"]:
        took += f" ({clock(summary['predicted_seconds'])} were predicted)"
    speed, memory = summary["tokens_per_second"], summary["peak_memory_bytes"] / 1e6
    console.print(
        Text.assemble(
            f"\n{summary['steps']:,} steps in {took}: ",
            (result_text(summary), "bold cyan"),
            f" on held-out text, {speed:,.0f} tokens/s, {memory:,.0f} MB at most.",
        )
    )
    if "confusion" in summary:
        from handloom.cli.labels_view import print_labels

        print_labels(console, summary)
    what, command = "Generate text:", f'handloom generate "The" --model {folder} --stream'
    if summary.get("task") == "classify":
        what, command = "Classify a text:", f'handloom classify "Some text" --model {folder}'
    elif summary.get("template"):
        what, command = "Chat with it:", f"handloom chat {folder}"
    console.print(f"Plot, samples and settings are in the run's folder. {what}")
    console.print(f"\n    {command}\n", style="bold", soft_wrap=True)


def result_text(summary: dict[str, Any]) -> str:
    """The result of the last validation, in the metric of the task."""
    if summary.get("val_bits_per_byte") is not None:
        return f"{summary['val_bits_per_byte']:.3f} bits per byte"
    if summary.get("val_accuracy") is not None:
        return f"accuracy {summary['val_accuracy']:.1%}"
    return f"loss {summary['val_loss']:.3f}"


@contextmanager
def _folder_of_new_run(given: Path | None) -> Iterator[Path]:
    """The given folder, or one named by the present time.

    The latter is made at once, so that two runs that begin in the same second get folders of their own. It is removed
    when the run cannot begin.
    """
    if given is not None:
        yield given
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
            pass  # the run raises an error with the remedy
        break
    try:
        yield folder
    finally:
        with suppress(OSError):  # which a folder that is not empty raises
            folder.rmdir()
            if first:
                folder.parent.rmdir()
