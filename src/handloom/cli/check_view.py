"""What `handloom data check` prints for people: findings with their places, then lengths, languages and labels."""

from __future__ import annotations

from collections.abc import Sequence

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from handloom.console import Console, new_console, visible
from handloom.data.examples import KINDS
from handloom.data.lint import DataStats, Group, LintSettings
from handloom.data.lint.lengths import PERCENTILES
from handloom.data.lint.rules import ERROR, NOTE, WARNING, Finding, count, counted

_WIDTH = 80
_BAR = 32
_PLACE = 34  # characters of a place that leave room beside it
_STYLES = {ERROR: "bold red", WARNING: "bold yellow", NOTE: "bold cyan"}
_ROWS_SHOWN = 12
_SPLITS = {
    "documents": "by document, chosen by the hash of its text",
    "tail": "the last part of each document is held out",
}


def print_page(groups: Sequence[Group], settings: LintSettings, seen: DataStats, tokenizer: str) -> None:
    """Print all that a check came to.

    Args:
        groups: what was found, the worst first.
        settings: of the run that the data was checked for.
        seen: what there is beside findings.
        tokenizer: the name of what lengths were measured with.
    """
    console = new_console(width=_WIDTH)
    many = "documents" if settings.task == "text" else KINDS[settings.task].MANY
    found = counted(groups) or "nothing to say against them"
    console.print(f"Checked {seen.texts:,} {many if seen.texts != 1 else many[:-1]}: {found}.")
    for group in groups:
        console.print()
        _print_group(console, group)
    told = seen.omissions.sentences() + (seen.separation.sentences() if seen.separation else [])
    if told:
        console.print("\nWhat a run would say", style="bold")
        for sentence, _ in told:
            _print_indented(console, Text(visible(sentence)))
    console.print()
    _print_lengths(console, settings, seen, tokenizer)
    _print_bars(console, "Script and likely language", dict(seen.languages.most_common()))
    _print_bars(console, "Labels", {label: sum(numbers) for label, numbers in seen.labels.items()})
    _print_split(console, settings, seen)
    if count(groups, ERROR):
        console.print("A run would stop, or its validation would lie. Mend the errors first.", style="bold red")
    elif count(groups, WARNING):
        console.print("A run would go through. Look at the warnings first.", style="bold yellow")
    else:
        console.print("A run would go through.", style="bold green")


def _print_group(console: Console, group: Group) -> None:
    console.print(Text.assemble((f"{group.severity.capitalize()}: ", _STYLES[group.severity]), group.title))
    rows = [_row(finding) for finding in group.first]
    if group.worst is not None and group.worst not in group.first:
        rows.append(_row(group.worst, "the worst: "))
    if max(len(place) for place, _ in rows) <= _PLACE:
        table = Table.grid(padding=(0, 2, 0, 0))
        for place, detail in rows:
            table.add_row(place, detail)
        _print_indented(console, table)
    else:  # a line of its own for each place, so that paths stay whole
        for place, detail in rows:
            console.print(Text("  ").append(place), soft_wrap=True)
            _print_indented(console, detail, 4)
    if left := group.count - len(rows):
        _print_indented(console, Text(f"and {left:,} more, which --all lists", style="dim"))
    remedies = Table.grid(padding=(0, 1, 0, 0))
    for remedy in dict.fromkeys(finding.remedy for finding in group.first):
        remedies.add_row("->", Text(visible(remedy)))
    _print_indented(console, remedies)


def _row(finding: Finding, before: str = "") -> tuple[Text, Text]:
    place = "all of it" if finding.place is None else str(finding.place)
    return Text(visible(place), style="cyan"), Text(before + visible(finding.detail))


def _print_indented(console: Console, what: Table | Text, by: int = 2) -> None:
    console.print(Padding(what, (0, 0, 0, by), expand=False))


def _print_lengths(console: Console, settings: LintSettings, seen: DataStats, tokenizer: str) -> None:
    if not len(seen.lengths):
        return
    numbers = seen.lengths.to_dict()
    shares = ", ".join(f"{share}% up to {numbers[f'p{share}']:,}" for share in PERCENTILES)
    console.print(f"Length in tokens of {tokenizer}", style="bold")
    said = f"{numbers['tokens']:,} in all; {numbers['least']:,} to {numbers['greatest']:,} each; {shares}"
    _print_indented(console, Text(said))
    marks = {}
    rows = {}
    for low, high, texts in seen.lengths.histogram():
        name = f"{low:,} - {high:,}" if high > low else f"{low:,}"
        rows[name] = texts
        if low <= settings.context_length <= high:
            marks[name] = f"the context, {settings.context_length:,}, ends here"
    console.print(_bars(rows, marks))
    console.print()


def _print_bars(console: Console, title: str, counts: dict[str, int]) -> None:
    if not counts:
        return
    console.print(title, style="bold")
    shown = dict(list(counts.items())[:_ROWS_SHOWN])
    if rest := list(counts.values())[_ROWS_SHOWN:]:
        shown[f"{len(rest):,} more"] = sum(rest)
    console.print(_bars(shown, {}, left=True))
    console.print()


def _bars(rows: dict[str, int], marks: dict[str, str], *, left: bool = False) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(justify="left" if left else "right", max_width=28, overflow="ellipsis", no_wrap=True)
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    most = max(rows.values())
    for name, number in rows.items():
        length = max(1, round(number / most * _BAR)) if number else 0
        bar = Text("\N{FULL BLOCK}" * length, style="green")
        if name in marks:
            bar.append(f"{' ' if length else ''}\N{LEFTWARDS ARROW} {marks[name]}", style="dim")
        table.add_row("", Text(visible(name)), f"{number:,}", bar)
    return table


def _print_split(console: Console, settings: LintSettings, seen: DataStats) -> None:
    if not any(seen.sides):
        return
    learned, held_out = seen.sides
    if seen.policy:
        console.print(
            f"Split: {_SPLITS[seen.policy]}; {seen.tokens[0]:,} tokens to learn from, "
            f"{seen.tokens[1]:,} to validate with."
        )
    else:
        console.print(f"Split: {learned:,} to learn from, {held_out:,} held out.")
