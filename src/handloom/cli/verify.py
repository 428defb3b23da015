"""handloom verify"""

from __future__ import annotations

import sys
from pathlib import Path


def verify(model: Path = Path("runs/demo"), *, json: bool = False, threads: int | None = None) -> None:
    """Check that a model is computed as it should be. Needs no network; the exit code is 0 or 1.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, or the name of a pulled model.
    json
        Print one JSON object a line instead of a table.
    threads
        Threads for the matrix products [default: the cores granted].
    """
    import dataclasses
    from json import dumps

    from rich.console import Console
    from rich.table import Table

    from handloom import runtime
    from handloom.inspection.verify import verify as checks_of
    from handloom.loading import load

    runtime.use_threads(threads)
    lm = load(model, lambda note: print(f"Note: {note}", file=sys.stderr))
    table = Table(title=str(model), title_justify="left")
    for column in ("check", "result", "how it went"):
        table.add_column(column)
    words = {True: "[green]passed[/]", False: "[bold red]failed[/]", None: "not checked"}
    failed = False
    for check in checks_of(lm):
        failed = failed or check.passed is False
        if json:
            print(dumps(dataclasses.asdict(check), ensure_ascii=False), flush=True)
        table.add_row(check.name, words[check.passed], check.detail)
    if not json:
        Console(highlight=False).print(table)
    if failed:
        sys.exit(1)
