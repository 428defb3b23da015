"""`handloom data check`: what a run would stop at, or learn badly, before there is a run."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from handloom.cli.data import Reading

if TYPE_CHECKING:
    from handloom.data.lint import DataStats, Group, LintSettings
    from handloom.tokenizer.base import Tokenizer

_GPT2_CONTEXT = 1024


def check(
    *,
    data: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    task: Literal["text", "sft", "dpo", "classify"] = "text",
    tokenizer: str = "gpt2",
    context_length: int | None = None,
    overlong: Literal["error", "truncate", "skip"] = "error",
    reading: Reading = Reading(),  # noqa: B008 - frozen, and cyclopts wants an instance
    every: Annotated[bool, Parameter(name="--all", negative="", show_default=False)] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="", show_default=False)] = False,
) -> None:
    """Look for what a run with these settings would stop at, or learn badly.

    Parameters
    ----------
    data
        text: files, folders, globs, -, python-docs, python-source; other tasks: .jsonl, .csv, ...
    task
        text, sft (conversations), dpo (pairs of answers) or classify (texts with labels).
    tokenizer
        What to measure lengths with: gpt2, a folder with vocab.json and merges.txt, or a model.
    context
        Tokens in a row [default: the model's; 1024 where a tokenizer is named].
    overlong
        What the run is to do with longer examples: error, truncate or skip.
    every
        List every place, not only the first three of each kind.
    as_json
        Print one JSON object with all there is, every place too, for other programs.
    """
    from handloom.data.lint import DataStats, LintSettings, grouped
    from handloom.data.lint.rules import ERROR, count

    given = {name: value for name, value in asdict(reading).items() if value is not None}
    LintSettings(
        task=task, context_length=context_length or 1, overlong=overlong, **given
    )  # refused before a model is looked for
    measure, its_context = _measure(tokenizer)
    settings = LintSettings(
        task=task, context_length=its_context if context_length is None else context_length, overlong=overlong, **given
    )
    seen = DataStats()
    groups = grouped(_findings(data or [], measure, settings, seen), None if every or as_json else 3)
    if as_json:
        _print_json(groups, settings, seen, tokenizer)
    else:
        from handloom.cli.check_view import print_page

        print_page(groups, settings, seen, tokenizer)
    if count(groups, ERROR):
        sys.exit(1)


def _findings(data: list[str], tokenizer: Tokenizer, settings: LintSettings, seen: DataStats):  # type: ignore[no-untyped-def]
    """Every finding, with a line on a terminal's standard error that says how far it is."""
    from handloom.console import new_console
    from handloom.data.lint import lint

    console = new_console(stderr=True)
    if not console.is_terminal:
        yield from lint(data, tokenizer, settings, seen)
        return
    with console.status("Reading") as status:
        yield from lint(
            data,
            tokenizer,
            settings,
            seen,
            lambda texts: None if texts % 100 else status.update(f"Reading: {texts:,} texts so far"),
        )


def _measure(name: str) -> tuple[Tokenizer, int]:
    """The tokenizer that a name stands for, and the context of its model."""
    from handloom.runtime import user_path
    from handloom.tokenizer import load_tokenizer

    folder = user_path(name, "--tokenizer")
    is_model = any((folder / part).exists() for part in ("config.json", "checkpoints", "adapter_config.json"))
    if name == "gpt2" or (folder.is_dir() and not is_model):
        return load_tokenizer(name), _GPT2_CONTEXT
    from handloom.console import note
    from handloom.loading import find_model

    stored = find_model(name, note)
    return stored.load_tokenizer(), stored.config.context_length


def _print_json(groups: list[Group], settings: LintSettings, seen: DataStats, tokenizer: str) -> None:
    from handloom.console import print_json
    from handloom.data.lint.rules import SEVERITIES, count

    answer = {
        **asdict(settings),
        "tokenizer": tokenizer,
        **{f"{severity}s": count(groups, severity) for severity in SEVERITIES},
        "findings": [group.to_dict() for group in groups],
        **seen.to_dict(),
    }
    print_json(answer)
