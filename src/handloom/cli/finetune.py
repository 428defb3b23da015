"""handloom finetune"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from handloom.cli.flags import PathFlag, flags_of, given
from handloom.cli.train import begin_or_resume
from handloom.training.config import FinetuneConfig, merge_finetune

FinetuneFlags: Any = flags_of(FinetuneConfig)


def finetune(
    *,
    run: PathFlag | None = None,
    resume: PathFlag | None = None,
    config: PathFlag | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    stop_after: int | None = None,
    ledger: bool = False,
    flags: Annotated[FinetuneFlags, Parameter(name="*")] = FinetuneFlags(),  # noqa: B008 - cyclopts wants an instance
) -> None:
    """Tune a model that is there to other text, or to a task, or go on with a run that was stopped.

    A setting is its default, overruled by the --config file, overruled by its flag.

    Parameters
    ----------
    run
        Folder of the new run [default: runs/ and the present time].
    resume
        Go on with this run instead, bit for bit as if it had never stopped.
    config
        TOML file of settings, `name = value` for any flag below.
    overwrite
        Replace the run that lies in the folder.
    stop_after
        Stop after this step as Ctrl-C would: saved, and ready to go on.
    ledger
        Only show what each method would train, and the memory it takes; then stop.
    """
    settings = given(flags)
    if ledger:
        _show_ledger(merge_finetune(config, {"data": ("-",), **settings}))
        return
    merged = merge_finetune(config, settings) if resume is None else None  # refused before torch is imported
    begin_or_resume(FinetuneConfig, merged, settings, run, resume, config, overwrite, stop_after)


def _show_ledger(settings: FinetuneConfig) -> None:
    from handloom.loading import find_checkpoint
    from handloom.training.report import Terminal
    from handloom.training.tuning import ledger_for

    Terminal().ledger(ledger_for(settings, find_checkpoint(settings.model).config))
