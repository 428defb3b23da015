"""`handloom train`, `finetune` and `demo`: runs, begun or resumed, and what is printed at their end."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.text import Text

from handloom.cli.flags import RUN, PathFlag, flags_of, given
from handloom.cli.plan import SHORT_RUN, print_score, read_plan
from handloom.console import Console, table, visible
from handloom.errors import ConfigError
from handloom.settings import Settings, setting
from handloom.training.config import FinetuneConfig, TrainConfig

if TYPE_CHECKING:
    from handloom.training.config import LoopSettings
    from handloom.training.progress import TerminalReporter

DEMO_PROMPTS = ("The", "Return the", "Python is")
_MOST_LABELS = 6
"""Labels whose matrix still fits a terminal."""
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
FinetuneFlags: Any = flags_of(FinetuneConfig)


def train(*, flags: TrainFlags = None, options: RunFlags = None, plan: Annotated[PathFlag | None, RUN] = None) -> None:
    """Train a GPT from scratch on text, or resume a run that was stopped.

    A setting is its default, overruled by the --config file, overruled by its flag.

    Parameters
    ----------
    plan
        File of `handloom plan`: its settings hold, and its prediction is compared at the end.
    """
    changes, run_options = given(flags), RunOptions(**given(options))
    if plan is None:
        _begin_or_resume(TrainConfig, changes, run_options)
        return
    if run_options.config is not None or run_options.resume is not None:
        problem = "`plan` has the settings of a new run, and so do `config` and `resume`."
        raise ConfigError(problem, "Give one of them.", setting="plan")
    settings, prediction = read_plan(plan)
    summary = _begin_or_resume(TrainConfig, {**settings, **changes}, run_options)
    if summary["finished"]:
        print_score(prediction, summary)


def finetune(*, flags: FinetuneFlags = None, options: RunFlags = None, estimate: Annotated[bool, RUN] = False) -> None:
    """Finetune a pretrained model on text or on a task, or resume a run that was stopped.

    A setting is its default, overruled by the --config file, overruled by its flag.

    Parameters
    ----------
    estimate
        Only show what each method would train, and its memory; then stop.
    """
    changes, run_options = given(flags), RunOptions(**given(options))
    if not estimate:
        _begin_or_resume(FinetuneConfig, changes, run_options)
        return
    from handloom.loading import find_model
    from handloom.training.finetune_setup import memory_estimate
    from handloom.training.progress import TerminalReporter

    file = Path(run_options.config) if run_options.config is not None else None
    config = FinetuneConfig.merged(file, {"data": ("-",), **changes})
    TerminalReporter().memory_estimate(memory_estimate(config, find_model(config.model).config))


def demo(*, run: PathFlag = Path("runs/demo"), minutes: float = 1.5, seed: int = 0) -> None:
    """Train a tokenizer and a GPT on this Python's own documentation, then generate text.

    Parameters
    ----------
    run
        Folder of the run; an earlier demo there is replaced, unless it was trained further.
    minutes
        How long to train.
    seed
        Seed of the weights, the data order, and the texts.
    """
    from handloom.inference.generation_config import GenerationConfig
    from handloom.loading import load
    from handloom.training import run as runs
    from handloom.training.progress import TerminalReporter

    config = TrainConfig(minutes=minutes, seed=seed, **SHORT_RUN)
    settings = run / "config.toml"
    if settings.is_file():
        merged = TrainConfig.merged(settings, {})
        found = dataclasses.replace(merged, minutes=None, seed=0, threads=None, precision="auto")
        if found not in (TrainConfig(), TrainConfig(**SHORT_RUN)):
            raise ConfigError(
                f"{run} holds a run that is not an untouched demo, so it is kept.",
                "Name another folder: `run=runs/demo2`.",
                setting="run",
            )
    with TerminalReporter() as terminal:
        terminal.note("Training on the documentation of the Python that runs this. Nothing is downloaded.")
        summary = runs.begin(run, config, terminal, overwrite=True)
    if summary["finished"]:
        lm = load(run)
        terminal.console.print("\nGenerated texts:\n", style="bold")
        request = GenerationConfig(max_new_tokens=60, temperature=0.8, top_p=0.9, seed=seed, overflow="slide")
        for prompt in DEMO_PROMPTS:
            text = lm.complete(prompt, request).completions[0].text
            terminal.console.print(Text.assemble((prompt, "bold"), visible(text)), end="\n\n")
    conclude(run, summary, terminal)


def _begin_or_resume(kind: type[LoopSettings], changes: dict[str, Any], options: RunOptions) -> dict[str, Any]:
    """Train as the flags of `handloom train` or `handloom finetune` have it, and print the result, which is returned.

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
            stop_after, drop_later = options.stop_after, options.drop_later
            summary = runs.resume(
                resumed, terminal, changes=changes, stop_after=stop_after, kind=kind, into=run, drop_later=drop_later
            )
        else:
            assert merged is not None
            reads = [] if config is None else [config]
            with _folder_of_new_run(run) as folder:
                overwrite, stop_after = options.overwrite, options.stop_after
                summary = runs.begin(folder, merged, terminal, overwrite=overwrite, stop_after=stop_after, reads=reads)
    conclude(folder, summary, terminal)
    return summary


def conclude(run: Path, summary: dict[str, Any], terminal: TerminalReporter) -> None:
    """Print the result of a run and what to type next."""
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
    if summary.get("val_bits_per_byte") is not None:
        result = f"{summary['val_bits_per_byte']:.3f} bits per byte"
    elif summary.get("val_accuracy") is not None:
        result = f"accuracy {summary['val_accuracy']:.1%}"
    else:
        result = f"loss {summary['val_loss']:.3f}"
    console.print(
        Text.assemble(
            f"\n{summary['steps']:,} steps in {took}: ",
            (result, "bold cyan"),
            f" on held-out text, {speed:,.0f} tokens/s, {memory:,.0f} MB at most.",
        )
    )
    if "confusion" in summary:
        print_labels(console, summary)
    what, command = "Generate text:", f'handloom generate "The" --model {folder} --stream'
    if summary.get("task") == "classify":
        what, command = "Classify a text:", f'handloom classify "Some text" --model {folder}'
    elif summary.get("template"):
        what, command = "Chat with it:", f"handloom chat {folder}"
    console.print(f"Plot, samples and settings are in the run's folder. {what}")
    console.print(f"\n    {command}\n", style="bold", soft_wrap=True)


def print_labels(console: Console, summary: dict[str, Any]) -> None:
    """The metrics of each label, and the confusion matrix, from the summary of a run."""
    names = list(summary["labels"])
    if len(names) > _MOST_LABELS:
        console.print(f"The metrics of {len(names)} labels and their confusion matrix are in summary.json.")
        return
    rows = []
    for name, counts in zip(names, summary["confusion"], strict=True):
        metrics = [f"{summary['labels'][name][metric]:.1%}" for metric in ("precision", "recall", "f1")]
        rows.append([name, *map(str, counts), *metrics])
    console.print(table(["label", *(f">as {name}" for name in names), ">precision", ">recall", ">F1"], rows))


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
