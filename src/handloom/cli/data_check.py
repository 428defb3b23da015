"""`handloom data check`: what would stop a run, or be learned badly, before there is a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from handloom.cli.data import DataFlag, JsonSwitch
from handloom.cli.flags import flags_of, given
from handloom.data.lint import DataStats, Finding, LintSettings, grouped, lint
from handloom.data.lint.rules import ERROR, SEVERITIES, count

if TYPE_CHECKING:
    from handloom.tokenizer.base import Tokenizer

CheckFlags: Any = flags_of(LintSettings)


def check(
    *,
    data: DataFlag = None,
    tokenizer: str = "gpt2",
    flags: Annotated[CheckFlags, Parameter(name="*")] = CheckFlags(),  # noqa: B008 - cyclopts wants an instance
    every: Annotated[bool, Parameter(name="--all", negative="", show_default=False)] = False,
    as_json: JsonSwitch = False,
) -> None:
    """Find what would stop a run with these settings, or be learned badly.

    Parameters
    ----------
    data
        text: files, folders, globs, -, python-docs, python-source; other tasks: .jsonl, .csv, ...
    tokenizer
        What to measure lengths with: gpt2, a folder with vocab.json and merges.txt, or a model, which also brings
        its context length.
    every
        List every place, not only the first three of each kind.
    as_json
        Print one JSON object with all there is, every place too, for other programs.
    """
    chosen = given(flags)
    settings = LintSettings(**chosen)  # refused before a model is looked for
    loaded, context_length = _tokenizer_of(tokenizer, settings.context_length)
    settings = LintSettings(**{"context_length": context_length, **chosen})
    stats = DataStats()
    findings = _findings(data or [], loaded, settings, stats)
    groups = grouped(findings, None if every or as_json else 3)
    if as_json:
        from handloom.console import print_json

        numbers = {f"{severity}s": count(groups, severity) for severity in SEVERITIES}
        found = {"findings": [group.to_dict() for group in groups]}
        print_json({**asdict(settings), "tokenizer": tokenizer, **numbers, **found, **stats.to_dict()})
    else:
        from handloom.cli.data_view import print_check

        print_check(groups, settings, stats, tokenizer)
    if count(groups, ERROR):
        sys.exit(1)


def _findings(data: list[str], tokenizer: Tokenizer, settings: LintSettings, stats: DataStats) -> Iterator[Finding]:
    """Every finding, with the progress on a terminal's standard error."""
    from handloom.console import new_console

    console = new_console(stderr=True)
    if not console.is_terminal:
        yield from lint(data, tokenizer, settings, stats)
        return
    with console.status("Reading") as status:

        def on_progress(texts: int) -> None:
            if texts % 100 == 0:
                status.update(f"Reading: {texts:,} texts")

        yield from lint(data, tokenizer, settings, stats, on_progress=on_progress)


def _tokenizer_of(name: str, context_length: int) -> tuple[Tokenizer, int]:
    """The tokenizer of that name, and the context length of its model, if it belongs to one."""
    from handloom.runtime import user_path
    from handloom.tokenizer import load_tokenizer

    folder = user_path(name, "--tokenizer")
    is_model = any((folder / part).exists() for part in ("config.json", "checkpoints", "adapter_config.json"))
    if name == "gpt2" or (folder.is_dir() and not is_model):
        return load_tokenizer(name), context_length
    from handloom.console import note
    from handloom.loading import find_model

    stored = find_model(name, note)
    return stored.load_tokenizer(), stored.config.context_length
