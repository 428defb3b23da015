"""handloom finetune"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from handloom.cli.flags import RUN, flags_of, given
from handloom.cli.train import RunFlags, RunOptions, begin_or_resume
from handloom.training.config import FinetuneConfig

FinetuneFlags: Any = flags_of(FinetuneConfig)


def finetune(
    *,
    flags: Annotated[FinetuneFlags, Parameter(name="*")] = FinetuneFlags(),  # noqa: B008 - cyclopts wants an instance
    options: Annotated[RunFlags, Parameter(name="*")] = RunFlags(),  # noqa: B008
    estimate: Annotated[bool, RUN] = False,
) -> None:
    """Finetune a pretrained model on text or on a task, or resume a run that was stopped.

    A setting is its default, overruled by the --config file, overruled by its flag.

    Parameters
    ----------
    estimate
        Only show what each method would train, and its memory; then stop.
    """
    changes, run_options = given(flags), RunOptions(**given(options))
    if estimate:
        _show_estimate(run_options, changes)
    else:
        begin_or_resume(FinetuneConfig, changes, run_options)


def _show_estimate(options: RunOptions, changes: dict[str, Any]) -> None:
    from pathlib import Path

    from handloom.loading import find_model
    from handloom.training.finetune_setup import memory_estimate
    from handloom.training.progress import TerminalReporter

    file = Path(options.config) if options.config is not None else None
    config = FinetuneConfig.merged(file, {"data": ("-",), **changes})
    TerminalReporter().memory_estimate(memory_estimate(config, find_model(config.model).config))
