"""handloom verify"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handloom.cli.arguments import Precision, read_file
from handloom.cli.flags import ModelPath, PathFlag
from handloom.errors import ConfigError, RequestError
from handloom.inspection.check import TOLERANCE

if TYPE_CHECKING:
    from handloom.inspection.activations import Difference
    from handloom.inspection.check import Check
    from handloom.inspection.diff import Comparison
    from handloom.model.gpt import GPT

_RESULTS = {True: ("passed", "green"), False: ("failed", "bold red"), None: ("not checked", "")}
_PARTS = {
    "blocks.0.resid_pre": "the sum of token and position embedding",
    "attention_norm": "the LayerNorm before attention",
    "attention.pattern": "how much tokens look at each other",
    "attention.out": "what attention adds",
    "feedforward_norm": "the LayerNorm before the feed-forward network",
    "feedforward.out": "what the feed-forward network adds",
    "resid_post": "the residual stream behind it",
    "final_norm": "the LayerNorm behind the last block",
    "logits": "the scores of the next token",
}
_SHOWN = 5  # names of differing tensors that are listed


def verify(
    model: ModelPath = Path("runs/demo"),
    *,
    against: str | None = None,
    text: str | None = None,
    text_file: PathFlag | None = None,
    precision: Precision | None = None,
    tolerance: float = TOLERANCE,
    json: bool = False,
    threads: int | None = None,
) -> None:
    """Check that a model is computed as it should be. Needs no network; the exit code is 0 or 1.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, or the name of a pulled model.
    against
        Find the first activation that differs in another model of the same shape, or in the same one in
        another precision: fp32, bf16 (matrix products), bf16-weights or fp16-weights (rounded weights).
    text
        What both read with --against, instead of a sentence about a fox.
    text_file
        Read that text from this file.
    precision
        Check the quality of this precision alone against fp32 [default: of each that this processor has].
    tolerance
        The largest difference allowed, as a share of the largest number there is (or of 1).
    json
        Print one JSON object a line instead of a table.
    threads
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores granted].
    """
    _require_sense(against, text, text_file, precision=precision, tolerance=tolerance)

    from handloom import runtime
    from handloom.console import note
    from handloom.inspection.diff import compare_models, is_precision
    from handloom.inspection.verify import verify as checks_of
    from handloom.loading import load

    if text_file is not None:
        text = read_file(text_file, "The text file", exact=True)
    runtime.set_num_threads(threads)
    if against is None:
        passed = print_checks(str(model), checks_of(load(model, note), tolerance, _rounded(model, precision)), json)
    else:
        other = against if is_precision(against) else load(against, note)
        compared = compare_models(load(model, note), other, text, tolerance)
        passed = print_comparison(str(model), against, compared, tolerance=tolerance, as_json=json)
    if not passed:
        sys.exit(1)


def _require_sense(
    against: str | None, text: str | None, text_file: Path | None, *, precision: str | None, tolerance: float
) -> None:
    if not 0 <= tolerance < math.inf:
        raise ConfigError(
            f"The tolerance is {tolerance}; it must be a finite number of at least 0.",
            f"0 allows no difference at all; the usual is {TOLERANCE:g}.",
        )
    if text is not None and text_file is not None:
        raise RequestError("Both --text and --text-file are given.", "Give one of them.")
    if against is None and (text is not None or text_file is not None):
        raise RequestError("A text is read by two models only.", "Name the other one with --against.")
    if against is not None and precision is not None:
        raise RequestError("--against compares with one model or precision, and --precision too.", "Give one of them.")


def _rounded(model: Path, precision: str | None) -> dict[str, Callable[[], GPT]]:
    """What loads the model in each precision whose quality is checked."""
    from handloom.loading import load
    from handloom.quantization.precision import PACKED, resolve_precision
    from handloom.runtime import has_native_bf16

    names = [*PACKED, *(["bf16"] if has_native_bf16() else [])] if precision is None else [resolve_precision(precision)]

    def loaded(name: str) -> GPT:
        return load(model, lambda note: None, precision=name).model

    return {name: partial(loaded, name) for name in names if name != "fp32"}


def print_checks(title: str, checks: Iterable[Check], as_json: bool) -> bool:
    """Print the checks. Returns whether none failed."""
    from rich import box
    from rich.text import Text

    from handloom.console import new_console, print_json, table

    rows, passed = [], True
    for check in checks:
        passed = passed and check.passed is not False
        if as_json:
            print_json(dataclasses.asdict(check))
        rows.append((check.name, Text(*_RESULTS[check.passed]), check.detail))
    if not as_json:
        columns = ("check", "result", "how it went")
        new_console().print(table(columns, rows, title=title, box=box.HEAVY_HEAD, pad_edge=True))
    return passed


def print_comparison(one: str, other: str, found: Comparison, tolerance: float, as_json: bool) -> bool:
    """Print where two models part. Returns whether they do not."""
    from handloom.console import new_console, print_json

    if as_json:
        print_json(_record(one, other, found, tolerance))
    else:
        console = new_console()
        for part in (*_what_is_compared(one, other, found), _table(found), *_verdict(one, other, found, tolerance)):
            console.print(part)
    return found.first is None


def _what_is_compared(one: str, other: str, found: Comparison) -> Iterable[str]:
    from handloom.inspection.diff import PRECISIONS

    yield f"{one} against {other}" + (f" ({PRECISIONS[other]})" if other in PRECISIONS else "")
    yield f"Both read {len(found.ids)} tokens: {_short(repr(''.join(found.tokens)), 60)}"
    if not found.same_tokenizer:
        yield f"Their tokenizers differ: the ids are those of {one}, and stand for other text in {other}."
    for name, (here, there) in found.settings.items():
        yield f"They differ in {name}: {here} and {there}."
    count, differing, lone = found.weights.count, found.weights.differing, found.weights.lone
    if differing:
        yield f"{len(differing)} of {count} weights are not the same to the bit: {_listed(differing)}."
    else:
        yield f"All {count} weights that both have are the same to the bit."
    if lone:
        yield f"Only one of them has {_listed(lone)}."


def _table(found: Comparison) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("activation", "differs by", "largest", "at token"):
        table.add_column(column, justify="right" if column in ("differs by", "largest") else "left", no_wrap=True)
    for name, difference in found.summary():
        place = found.position(difference)
        where = f"{place} {_short(repr(found.tokens[place]), 20)}" if difference.worst else ""
        style = "bold red" if difference is found.first else None
        table.add_row(name, f"{difference.worst:.1e}", f"{difference.scale:.3g}", where, style=style)
    return table


def _verdict(one: str, other: str, found: Comparison, tolerance: float) -> Iterable[str]:
    first = found.first
    if first is None:
        yield f"Nothing differs by more than {tolerance:g} of an activation's largest number (or of 1)."
        return
    place, where, looked_at = found.position(first), "", ""
    part = name = first.name
    if name.startswith("blocks.") and name not in _PARTS:
        _, number, part = name.split(".", 2)
        where = f"block {number} (the first is 0): "
    if part == "attention.pattern":
        _, head, _, key = first.where
        looked_at = f", where head {head} looks at token {key}, {found.tokens[key]!r}"
    yield f"The first divergence is {name}, {where}{_PARTS[part]}."
    yield f"It is worst at token {place} of the text (the first is 0), {found.tokens[place]!r}{looked_at}."
    yield f"There element {list(first.where[1:])} is {first.ours:.8g} in {one} and {first.theirs:.8g} in {other}."
    scale = max(1.0, first.scale)
    yield f"They differ by {first.worst:.2e}; {tolerance * scale:.2e} is allowed ({tolerance:g} of {scale:.3g})."


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _record(one: str, other: str, found: Comparison, tolerance: float) -> dict[str, Any]:
    """JSON values. What is not finite, which JSON cannot express, is text: "nan", "inf"."""

    def described(difference: Difference) -> dict[str, Any]:
        place = found.position(difference)
        token = {"place": place, "id": found.ids[place], "text": found.tokens[place]}
        values = {"name": difference.name, "where": difference.where, "token": token}
        for name in ("worst", "scale", "ours", "theirs"):
            number = getattr(difference, name)
            values[name] = number if math.isfinite(number) else str(number)
        return values

    return {
        "model": one,
        "against": other,
        "tolerance": tolerance,
        "ids": found.ids,
        "same_tokenizer": found.same_tokenizer,
        "settings": {name: list(pair) for name, pair in found.settings.items()},
        "weights": dataclasses.asdict(found.weights),
        "first": None if found.first is None else described(found.first),
        "activations": [described(difference) for difference in found.differences],
    }
