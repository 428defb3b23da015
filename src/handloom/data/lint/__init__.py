"""A linter for data: reads all that a run would read, to its end, and finds what a run would stop at or learn badly.

What a run decides about data (which lines are examples, on which side each is, how long it is) is asked of the very
functions that a run uses. Texts are not kept: memory grows by about a kilobyte a text. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from handloom.data.lint.base import DataStats, LintSettings
from handloom.data.lint.document_checks import lint_text
from handloom.data.lint.example_checks import lint_examples
from handloom.data.lint.rules import Finding, Group, grouped, summary_line
from handloom.tokenizer.base import Tokenizer

__all__ = ["DataStats", "Finding", "Group", "LintSettings", "grouped", "lint", "summary_line"]


def lint(
    sources: Sequence[str | Path],
    tokenizer: Tokenizer,
    settings: LintSettings,
    seen: DataStats | None = None,
    on_progress: Callable[[int], None] = lambda texts: None,
) -> Iterator[Finding]:
    """Every finding, as it comes up; those about copies, sides and labels at the end.

    Args:
        sources: files, folders and so on, as a run takes them.
        tokenizer: to measure lengths with.
        settings: of the run.
        seen: filled on the way with what there is beside findings; complete when the findings have been taken.
        on_progress: called with the number of texts read.

    Raises:
        DataError: no source was named, or the only one cannot be opened.
        ConfigError: a setting outside its limits.
    """
    check = lint_text if settings.task == "text" else lint_examples
    return check(list(sources), tokenizer, settings, DataStats() if seen is None else seen, on_progress)
