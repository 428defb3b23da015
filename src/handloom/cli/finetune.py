"""handloom finetune"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from handloom.cli.flags import ESSENTIAL, RUN, PathFlag, flags_of, given
from handloom.cli.train import begin_or_resume
from handloom.training.config import FinetuneConfig, merge_finetune

FinetuneFlags: Any = flags_of(FinetuneConfig)


def finetune(
    *,
    run: Annotated[PathFlag | None, ESSENTIAL] = None,
    resume: Annotated[PathFlag | None, RUN] = None,
    config: Annotated[PathFlag | None, RUN] = None,
    overwrite: Annotated[bool, RUN] = False,
    stop_after: Annotated[int | None, RUN] = None,
    drop_later: Annotated[bool, RUN] = False,
    ledger: Annotated[bool, RUN] = False,
    flags: Annotated[FinetuneFlags, Parameter(name="*")] = FinetuneFlags(),  # noqa: B008 - cyclopts wants an instance
) -> None:
    """Tune a model that is there to other text, or to a task, or go on with a run that was stopped.

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
    ledger
        Only show what each method would train, and the memory it takes; then stop.
    """
    settings = given(flags)
    if ledger:
        _show_ledger(merge_finetune(config, {"data": ("-",), **settings}))
        return
    merged = merge_finetune(config, settings) if resume is None else None  # refused before torch is imported
    begin_or_resume(FinetuneConfig, merged, settings, run, resume, config, overwrite, stop_after, drop_later)


def _show_ledger(settings: FinetuneConfig) -> None:
    from handloom.loading import find_model
    from handloom.training.progress import TerminalReporter
    from handloom.training.tuning import estimate_for

    TerminalReporter().ledger(estimate_for(settings, find_model(settings.model).config))
