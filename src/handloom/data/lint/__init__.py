"""A linter for data: reads all that a run would read, to its end, and finds what would stop it or be learned badly.

What a run decides about data (which records are examples, their split, their length) is computed by the functions
that a run uses. Texts are not kept: memory grows by about a kilobyte a text. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from handloom.data.lint.base import Job, LintSettings
from handloom.data.lint.rules import Finding, Group, grouped
from handloom.data.lint.stats import DataStats
from handloom.tokenizer.base import Tokenizer

__all__ = ["DataStats", "Finding", "Group", "LintSettings", "grouped", "lint"]


def lint(
    sources: Sequence[str | Path],
    tokenizer: Tokenizer,
    settings: LintSettings,
    stats: DataStats | None = None,
    on_progress: Callable[[int], None] = lambda texts: None,
) -> Iterator[Finding]:
    """Every finding as it comes up; those about copies, the split and labels at the end.

    `tokenizer` measures lengths; `stats` is filled on the way; `on_progress` gets the number of texts read. Raises
    DataError when no source was named, or the only one cannot be opened; ConfigError for a setting outside its limits.
    """
    from handloom.data.lint.document_checks import lint_text
    from handloom.data.lint.example_checks import lint_examples

    job = Job(list(sources), tokenizer, settings, stats or DataStats(), on_progress=on_progress)
    return lint_text(job) if settings.task == "text" else lint_examples(job)
