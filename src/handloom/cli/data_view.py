"""What `handloom data` prints for people: a batch as text, statistics as a table, findings with their places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from typing import Any, Literal

from rich.console import Group as Lines
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from handloom.console import Console, new_console, panel, table, visible
from handloom.data.examples import KINDS
from handloom.data.lint import DataStats, Finding, Group, LintSettings
from handloom.data.lint.rules import ERROR, NOTE, WARNING, count, counted
from handloom.data.lint.stats import PERCENTILES
from handloom.data.split import TRAIN
from handloom.data.tokenized import PreparedData, TokenData
from handloom.data.windows import Windows
from handloom.errors import worded
from handloom.tokenizer.base import END_OF_TEXT, Tokenizer

_WIDTH = 80
_BAR = 32
_PLACE = 34  # characters of a place that leave room for a detail
_STYLES = {ERROR: "bold red", WARNING: "bold yellow", NOTE: "bold cyan"}
_ROWS_SHOWN = 12
_SPLITS = {
    "documents": "by document, chosen by the hash of its text",
    "tail": "the last part of each document is held out",
    "none": "nothing held out",
}


def windows_of(windows: Windows, prepared: TokenData, tokenizer: Tokenizer, step: int) -> list[dict[str, Any]]:
    """The windows of a batch as plain values: places, names of documents, inputs, targets and text."""
    inputs, targets = windows.batch(step)
    epochs, starts = windows.places(step)
    ends = starts + inputs.shape[1] - 1
    shown = [[prepared.train.document_at(token) for token in pair] for pair in zip(starts, ends, strict=True)]
    wanted = {number for pair in shown for number in pair}
    names = enumerate(islice(prepared.names(TRAIN), max(wanted) + 1))
    named = {number: name for number, name in names if number in wanted}
    return [
        {
            "number": (step * windows.batch_size + row) % len(windows) + 1,
            "epoch": int(epochs[row]),
            "first_token": int(starts[row]),
            "documents": list(dict.fromkeys(named[number] for number in shown[row])),
            "inputs": inputs[row].tolist(),
            "targets": targets[row].tolist(),
            "text": tokenizer.decode(inputs[row].tolist()),
        }
        for row in range(len(inputs))
    ]


def print_batch(batch: list[dict[str, Any]], windows: Windows, tokenizer: Tokenizer, *, step: int, ids: bool) -> None:
    """Print windows, as `handloom data show --json` describes them, in boxes of text or of `ids`."""
    console = new_console(width=_WIDTH)
    console.print(
        f"Step {step:,}: {len(batch)} of {len(windows):,} windows an epoch, each {windows.context_length} tokens "
        f"(stride {windows.stride}, seed {windows.seed})."
    )
    for window in batch:
        place = f"window {window['number']:,} of epoch {window['epoch']}, token {window['first_token']:,}"
        tokens = [*window["inputs"], window["targets"][-1]]
        body = _shown_tokens([(token, False) for token in tokens], tokenizer, ids)
        source = Text(visible(" ... ".join(window["documents"])), style="dim", overflow="ellipsis", no_wrap=True)
        console.print(panel(Lines(source, "", body), place, _WIDTH))
    console.print("The last token of each window is only a target; every other is an input too.", style="dim")


def examples_of(batch: Any, tokenizer: Tokenizer, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a batch of examples as plain values, without padding.

    Each has its tokens, their loss mask, its text, and its `label`, or `preferred` (true or false) where answers come
    in pairs.
    """
    T = batch["inputs"].shape[-1]
    all_inputs = batch["inputs"].view(-1, T)  # (B, T), or (B * 2, T) of pairs
    if "labels" in batch:
        ends = (batch["last"] + 1).tolist()
        rows = [row[:end].tolist() for row, end in zip(all_inputs, ends, strict=True)]
        return [
            {"tokens": row, "loss_mask": [False] * len(row), "text": tokenizer.decode(row), "label": labels[number]}
            for row, number in zip(rows, batch["labels"].tolist(), strict=True)
        ]
    found: list[dict[str, Any]] = []
    for inputs, targets in zip(all_inputs, batch["targets"].view(-1, T), strict=True):
        end = int((targets >= 0).nonzero()[-1]) + 1  # what comes after the last target is padding
        tokens = [*inputs[:end].tolist(), int(targets[end - 1])]
        mask = [False, *(targets[:end] >= 0).tolist()]
        found.append({"tokens": tokens, "loss_mask": mask, "text": tokenizer.decode(tokens)})
        if batch["inputs"].ndim == 3:
            found[-1]["preferred"] = len(found) % 2 == 1
    return found


def print_examples(rows: list[dict[str, Any]], tokenizer: Tokenizer, step: int, *, ids: bool) -> None:
    """Print rows of examples, their training targets underlined."""
    console = new_console(width=_WIDTH)
    console.print(f"Step {step:,}: {len(rows)} rows.")
    for number, row in enumerate(rows, start=1):
        title = f"row {number}"
        if "label" in row:
            title += f", label {row['label']}"
        elif "preferred" in row:
            title += ", the preferred answer" if row["preferred"] else ", the other answer"
        marked = zip(row["tokens"], row["loss_mask"], strict=True)
        console.print(panel(_shown_tokens(marked, tokenizer, ids), title, _WIDTH))
    if not any("label" in row for row in rows):
        console.print("Training targets are underlined; the rest is context.", style="dim")


def _shown_tokens(marked: Iterable[tuple[int, bool]], tokenizer: Tokenizer, ids: bool) -> Text:
    """Tokens as ids or text, targets underlined, and the ends of documents reversed."""
    body = Text(overflow="fold")
    for (is_target, is_end), some in groupby(marked, lambda one: (one[1], one[0] == tokenizer.eos_token_id)):
        tokens, style = [token for token, _ in some], "bold underline" if is_target else ""
        if ids:
            body.append(" ".join(map(str, tokens)), style).append(" ")
        elif is_end:
            body.append(END_OF_TEXT * len(tokens), f"{style} bold reverse")
        else:
            body.append(visible(tokenizer.decode(tokens)), style)
    return body


def print_report(prepared: PreparedData) -> None:
    """Print the statistics of prepared text."""
    report = prepared.report
    console = new_console(width=_WIDTH)
    rows = []
    for side in ("train", "validation"):
        documents, size, tokens = (getattr(report, f"{side}_{what}") for what in ("documents", "bytes", "tokens"))
        rows.append((side, f"{documents:,}", f"{size:,}", f"{tokens:,}", f"{size / tokens:.2f}" if tokens else "-"))
    console.print(table(("", ">documents", ">bytes", ">tokens", ">bytes/token"), rows))
    console.print(f"Split: {report.split} ({_SPLITS[report.split]}).")
    console.print(f"Found {report.documents:,} documents.")
    for sentence, _ in prepared.sentences():
        console.print(sentence)
    if report.reused:
        console.print("Prepared before; nothing had to be tokenized.")
    else:
        speed = (report.train_bytes + report.validation_bytes) / 1e6 / report.seconds
        console.print(f"Took {report.seconds:.1f} s with {report.workers} threads, {speed:.1f} MB/s.")
    console.print(f"Kept in {prepared.folder}", soft_wrap=True)


def print_check(groups: Sequence[Group], settings: LintSettings, stats: DataStats, tokenizer: str) -> None:
    """Print the findings of a check, the worst first, and its statistics; lengths are in tokens of `tokenizer`."""
    console = new_console(width=_WIDTH)
    many = "documents" if settings.task == "text" else KINDS[settings.task].MANY
    found = counted(groups) or "nothing to say against them"
    console.print(f"Checked {stats.texts:,} {many if stats.texts != 1 else many[:-1]}: {found}.")
    for group in groups:
        console.print()
        _print_group(console, group)
    notes = stats.omissions.sentences() + (stats.separation.sentences() if stats.separation else [])
    if notes:
        console.print("\nNotes of a run", style="bold")
        for sentence, _ in notes:
            _print_indented(console, Text(visible(worded(sentence))))
    console.print()
    _print_lengths(console, settings, stats, tokenizer)
    _print_bars(console, "Script and likely language", dict(stats.languages.most_common()))
    _print_bars(console, "Labels", {label: sum(numbers) for label, numbers in stats.labels.items()})
    _print_split(console, settings, stats)
    verdict, style = "A run would go through.", "bold green"
    if count(groups, ERROR):
        verdict, style = "A run would stop, or its validation would be false. Fix the errors first.", "bold red"
    elif count(groups, WARNING):
        verdict, style = f"{verdict} Look at the warnings first.", "bold yellow"
    console.print(verdict, style=style)


def _print_group(console: Console, group: Group) -> None:
    console.print(Text.assemble((f"{group.severity.capitalize()}: ", _STYLES[group.severity]), group.title))
    rows = [_row(finding) for finding in group.first]
    if group.worst is not None and group.worst not in group.first:
        rows.append(_row(group.worst, "the worst: "))
    if max(len(place) for place, _ in rows) <= _PLACE:
        grid = Table.grid(padding=(0, 2, 0, 0))
        for row in rows:
            grid.add_row(*row)
        _print_indented(console, grid)
    else:  # a line of its own for each place, so that paths stay whole
        for place, detail in rows:
            console.print(Text("  ").append(place), soft_wrap=True)
            _print_indented(console, detail, 4)
    if left := group.count - len(rows):
        _print_indented(console, Text(f"and {left:,} more, which --all lists", style="dim"))
    remedies = Table.grid(padding=(0, 1, 0, 0))
    for remedy in dict.fromkeys(finding.remedy for finding in group.first):
        remedies.add_row("->", Text(visible(worded(remedy))))
    _print_indented(console, remedies)


def _row(finding: Finding, before: str = "") -> tuple[Text, Text]:
    place = "all of it" if finding.place is None else finding.place.short
    return Text(visible(place), style="cyan"), Text(before + visible(finding.detail))


def _print_indented(console: Console, what: Table | Text, by: int = 2) -> None:
    console.print(Padding(what, (0, 0, 0, by), expand=False))


def _print_lengths(console: Console, settings: LintSettings, stats: DataStats, tokenizer: str) -> None:
    if not len(stats.lengths):
        return
    numbers = stats.lengths.to_dict()
    shares = ", ".join(f"{share}% up to {numbers[f'p{share}']:,}" for share in PERCENTILES)
    console.print(f"Length in tokens of {tokenizer}", style="bold")
    spread = f"{numbers['tokens']:,} in all; {numbers['least']:,} to {numbers['greatest']:,} each; {shares}"
    _print_indented(console, Text(spread))
    marks, rows = {}, {}
    for low, high, texts in stats.lengths.histogram():
        name = f"{low:,} - {high:,}" if high > low else f"{low:,}"
        rows[name] = texts
        if low <= settings.context_length <= high:
            marks[name] = f"the context, {settings.context_length:,}, ends here"
    _print_rows(console, rows, marks, "right")


def _print_bars(console: Console, title: str, counts: dict[str, int]) -> None:
    if counts:
        shown = dict(list(counts.items())[:_ROWS_SHOWN])
        if rest := list(counts.values())[_ROWS_SHOWN:]:
            shown[f"{len(rest):,} more"] = sum(rest)
        console.print(title, style="bold")
        _print_rows(console, shown, {}, "left")


def _print_rows(
    console: Console, rows: dict[str, int], marks: dict[str, str], justify: Literal["left", "right"]
) -> None:
    """Names, counts and bars, with remarks behind some."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(justify=justify, max_width=28, overflow="ellipsis", no_wrap=True)
    grid.add_column(justify="right")
    grid.add_column(no_wrap=True)
    most = max(rows.values())
    for name, number in rows.items():
        length = max(1, round(number / most * _BAR)) if number else 0
        bar = Text("\N{FULL BLOCK}" * length, style="green")
        if name in marks:
            bar.append(f"{' ' if length else ''}\N{LEFTWARDS ARROW} {marks[name]}", style="dim")
        grid.add_row("", Text(visible(name)), f"{number:,}", bar)
    console.print(grid, "")


def _print_split(console: Console, settings: LintSettings, stats: DataStats) -> None:
    if stats.policy and any(stats.sides):
        console.print(
            f"Split: {_SPLITS[stats.policy]}; {stats.tokens[0]:,} tokens to learn from, "
            f"{stats.tokens[1]:,} to validate with."
        )
    elif any(stats.sides):
        console.print(f"Split: {stats.sides[0]:,} to learn from, {stats.sides[1]:,} held out.")
