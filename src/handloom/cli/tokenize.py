"""`handloom tokenize`: text to ids and back, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from handloom.cli.arguments import read_standard_input
from handloom.console import new_console, print_json, write
from handloom.errors import ConfigError, RequestError
from handloom.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from handloom.tokenizer.bpe import PieceWork

_COLOURS = ("cyan", "yellow", "green", "magenta")
_LONGEST_EXPLAINED = 1_000  # characters; every merge of every piece gets a line


def tokenize(
    text: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    *,
    tokenizer: str = "gpt2",
    decode: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    explain: bool = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Show the tokens of a text, or the text of token ids.

    Parameters
    ----------
    text
        What to tokenize; `-` reads it from standard input.
    tokenizer
        `gpt2`, or a folder with vocab.json and merges.txt.
    decode
        Ids to turn into text instead, such as "15496 995".
    explain
        Show every merge that led to the tokens.
    as_json
        Print one JSON object, for other programs.
    """
    if decode is None:
        text = read_standard_input("the text", exact=True) if text == "-" else text
        _show_tokens(text, tokenizer, explain, as_json)
    elif explain or text != "-":
        raise ConfigError(
            "--decode turns ids into text, so it takes no text and no --explain.", "Leave one of the two out."
        )
    else:
        ids = _read_ids(decode)
        decoded = load_tokenizer(tokenizer).decode(ids)
        if as_json:
            print_json({"ids": ids, "text": decoded})
        else:
            write(decoded)


def _show_tokens(text: str, source: str, explain: bool, as_json: bool) -> None:

    if explain and len(text) > _LONGEST_EXPLAINED:
        raise RequestError(
            f"--explain takes at most {_LONGEST_EXPLAINED:,} characters, since it shows every merge; "
            f"this text has {len(text):,}.",
            "Give it a shorter text, or leave --explain out.",
        )
    tokenizer = load_tokenizer(source, fast=not explain)
    ids = tokenizer.encode(text)
    tokens = [tokenizer.token_bytes(token) for token in ids]
    work = tokenizer.show_work(text) if explain else []
    if as_json:
        answer: dict[str, Any] = {"ids": ids, "tokens": [_readable(token) for token in tokens]}
        answer |= {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}
        if explain:
            answer["work"] = [_as_json(piece) for piece in work]
        print_json(answer)
        return

    console = new_console()
    for number, piece in enumerate(work):
        if piece not in work[:number]:
            console.print(_piece_table(piece), "")
    console.print(" ".join(map(str, ids)), soft_wrap=True)
    console.print(_row(tokens, "|"), soft_wrap=True)
    size = len(text.encode("utf-8", "replace"))
    console.print(f"{len(ids):,} tokens, {len(text):,} characters, {size:,} bytes", style="dim")


def _piece_table(work: PieceWork) -> Table:
    """One line per merge: its number in the list, the pair, and the piece after it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=12)
    table.add_column(justify="right", width=16, overflow="fold")
    table.add_column(overflow="fold")
    table.add_row("piece", "", Text(_readable(work.piece.encode()), style="bold"))
    table.add_row("bytes", "", _row(work.start, " "))
    for step in work.steps:
        pair = Text(f"{_readable(step.left)} + {_readable(step.right)}")
        number = Text(f"merge {step.rank + 1:,}", style="dim")
        table.add_row(number, pair, _row(step.parts, " ", new=step.place))
    table.add_row("ids", "", Text(" ".join(map(str, work.ids)), style="bold"))
    return table


def _row(tokens: list[bytes] | tuple[bytes, ...], between: str, new: int | None = None) -> Text:
    """Tokens side by side in changing colours, the one at place `new` in reverse."""
    row = Text()
    for number, token in enumerate(tokens):
        colour = _COLOURS[number % len(_COLOURS)]
        row.append(between if number else "", style="dim")
        row.append(_readable(token), style=f"bold reverse {colour}" if number == new else colour)
    return row


def _readable(token: bytes) -> str:
    """Bytes for the eye: the space as ␣, what cannot be printed as an escape such as \\n or \\xe2."""
    text = token.decode("utf-8", errors="backslashreplace").replace(" ", "␣")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _as_json(work: PieceWork) -> dict[str, Any]:
    def readable(tokens: Iterable[bytes]) -> list[str]:
        return list(map(_readable, tokens))

    steps = [
        {"merge": step.rank + 1, "pair": readable((step.left, step.right)), "parts": readable(step.parts)}
        for step in work.steps
    ]
    piece = _readable(work.piece.encode())
    return {"piece": piece, "bytes": readable(work.start), "steps": steps, "ids": list(work.ids)}


def _read_ids(text: str) -> list[int]:
    words = text.strip().strip("[]").replace(",", " ").split()
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise RequestError(
            f"--decode takes whole numbers, and {text[:60]!r} is something else.",
            'Write ids with spaces or commas between them: --decode "15496 995".',
        ) from error
