"""What `handloom data` prints for people: a batch as text, a report as a table."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from handloom.console import new_console, panel, visible
from handloom.data import PreparedData, Windows
from handloom.tokenizer.base import END_OF_TEXT, Tokenizer

_WIDTH = 80


def print_batch(batch: list[dict[str, Any]], windows: Windows, tokenizer: Tokenizer, step: int, ids: bool) -> None:
    """Print windows, as `handloom data show --json` describes them, in boxes of text or of `ids`."""
    console = new_console(width=_WIDTH)
    console.print(
        f"Step {step:,}: {len(batch)} of {len(windows):,} windows an epoch, each {windows.context_length} tokens "
        f"(stride {windows.stride}, seed {windows.seed})."
    )
    for window in batch:
        place = f"window {window['number']:,} of epoch {window['epoch']}, token {window['first_token']:,}"
        if ids:
            body = Text(" ".join(map(str, [*window["inputs"], window["targets"][-1]])))
        else:
            body = _readable([*window["inputs"], window["targets"][-1]], tokenizer)
        source = Text(visible(" ... ".join(window["documents"])), style="dim", overflow="ellipsis", no_wrap=True)
        console.print(panel(Group(source, "", body), place, _WIDTH))
    console.print("The last token of each window is only a target; every other is an input too.", style="dim")


def examples_of(batch: Any, tokenizer: Tokenizer, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a batch of examples as plain values, without what is padding.

    Returns:
        for each row its tokens, which of them are learned (true or false), its text, and what it is: `label`, or
        `preferred` (true or false) where answers come in pairs.
    """
    if "labels" in batch:
        lengths = (batch["last"] + 1).tolist()
        rows = [row[:length].tolist() for row, length in zip(batch["inputs"], lengths, strict=True)]
        named = [labels[number] for number in batch["labels"].tolist()]
        return [
            {"tokens": row, "learned": [False] * len(row), "text": tokenizer.decode(row), "label": label}
            for row, label in zip(rows, named, strict=True)
        ]
    T = batch["inputs"].shape[-1]
    found: list[dict[str, Any]] = []
    for inputs, targets in zip(batch["inputs"].view(-1, T), batch["targets"].view(-1, T), strict=True):
        learned = (targets >= 0).nonzero()[:, 0]  # what stands behind the last one is padding
        end = int(learned.max()) + 1
        tokens = [int(inputs[0]), *(int(token) for token in inputs[1:end]), int(targets[end - 1])]
        mask = [False, *(bool(target >= 0) for target in targets[:end])]
        found.append({"tokens": tokens, "learned": mask, "text": tokenizer.decode(tokens)})
        if batch["inputs"].ndim == 3:
            found[-1]["preferred"] = len(found) % 2 == 1
    return found


def print_examples(rows: list[dict[str, Any]], tokenizer: Tokenizer, step: int, ids: bool) -> None:
    """Print rows of examples, what is learned of them in bold."""
    console = new_console(width=_WIDTH)
    console.print(f"Step {step:,}: {len(rows)} rows.")
    for number, row in enumerate(rows, start=1):
        what = f"row {number}"
        if "label" in row:
            what += f", label {row['label']}"
        elif "preferred" in row:
            what += ", the preferred answer" if row["preferred"] else ", the other answer"
        body = Text(overflow="fold")
        marked = zip(row["tokens"], row["learned"], strict=True)
        for (learned, ends), some in groupby(marked, lambda one: (one[1], one[0] == tokenizer.eos_token_id)):
            tokens, style = [token for token, _ in some], "bold underline" if learned else ""
            if ids:
                body.append(" ".join(map(str, tokens)), style).append(" ")
            elif ends:
                body.append(END_OF_TEXT * len(tokens), f"{style} reverse")
            else:
                body.append(visible(tokenizer.decode(tokens)), style)
        console.print(panel(body, what, _WIDTH))
    if not any("label" in row for row in rows):
        console.print("What is learned is underlined; the rest is only read.", style="dim")


def _readable(ids: list[int], tokenizer: Tokenizer) -> Text:
    """Text for people, the ends of documents marked."""
    text = Text(overflow="fold")
    run: list[int] = []
    for token in [*ids, None]:
        if token is not None and token != tokenizer.eos_token_id:
            run.append(token)
            continue
        text.append(visible(tokenizer.decode(run)))
        text.append(END_OF_TEXT if token is not None else "", style="bold reverse")
        run = []
    return text


def print_report(prepared: PreparedData) -> None:
    """Print what preparing came to."""
    report = prepared.report
    console = new_console(width=_WIDTH)
    table = Table(title_justify="left")
    for column in ("", "documents", "bytes", "tokens", "bytes/token"):
        table.add_column(column, justify="right" if column else "left")
    for side in ("train", "validation"):
        documents, size, tokens = (getattr(report, f"{side}_{what}") for what in ("documents", "bytes", "tokens"))
        table.add_row(side, f"{documents:,}", f"{size:,}", f"{tokens:,}", f"{size / tokens:.2f}" if tokens else "-")
    console.print(table)
    how = {
        "documents": "by document, chosen by the hash of its text",
        "tail": "the last part of each document",
        "none": "nothing held out",
    }[report.split]
    console.print(f"Split: {report.split} ({how}).")
    console.print(f"Found {report.documents:,} documents.")
    for sentence, _ in prepared.sentences():
        console.print(sentence)
    if report.reused:
        console.print("Prepared before; nothing had to be tokenized.")
    else:
        speed = (report.train_bytes + report.validation_bytes) / 1e6 / report.seconds
        console.print(f"Took {report.seconds:.1f} s with {report.workers} threads, {speed:.1f} MB/s.")
    console.print(f"Kept in {prepared.folder}", soft_wrap=True)
