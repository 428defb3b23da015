"""Multiple choice by likelihood: which of several continuations is the most probable? Nothing is generated.

Longer choices are less likely, so accuracies are published in several forms; all are counted. In lm-evaluation-harness
`acc` compares plain sums, `acc_norm` sums per character and `acc_bytes` sums per byte, of the choice without the space
before it. Per token is what llm.c and others publish as their normalized accuracy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, tee
from typing import Any, NamedTuple

import numpy as np

from handloom.data.windows import Window
from handloom.errors import DataError
from handloom.evaluation.benchmarks import BenchmarkItem
from handloom.evaluation.scoring import RatioEstimator, score_windows
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.base import Tokenizer

READ_AHEAD = 16
"""Batches scored in the order of their lengths."""


@dataclass(frozen=True)
class ItemResult:
    """The likelihoods of an item's choices, one value for each."""

    item: BenchmarkItem
    nats: tuple[float, ...]
    """NLL of all tokens together."""
    tokens: tuple[int, ...]
    greedy: tuple[bool, ...]
    """Whether greedy decoding would give the choice."""
    truncated: bool
    """Whether the beginning of the context did not fit, and was left out."""

    def picks(self) -> dict[str, int]:
        """The choice taken by each normalization; the first of equals."""
        choices = self.item.choices
        sizes = {
            "sum": [1] * len(choices),
            "character": [len(choice) for choice in choices],
            "byte": [len(choice.encode("utf-8")) for choice in choices],
            "token": self.tokens,
        }
        return {name: int(np.argmin(np.divide(self.nats, size))) for name, size in sizes.items()}


def score_items(lm: LanguageModel, items: Iterable[BenchmarkItem], batch_size: int = 8) -> Iterator[ItemResult]:
    """Score items one after another; they stream. `batch_size` continuations are computed together.

    Raises DataError for a continuation that alone is longer than the context.
    """
    stream, again = tee(_windows_of(lm, item) for item in items)
    scores = score_windows(lm.model, (window for _, windows, _ in stream for window in windows), batch_size, READ_AHEAD)
    for item, windows, truncated in again:
        found = [(one.total, len(one.nll), one.is_greedy) for one in islice(scores, len(windows))]
        nats, tokens, greedy = zip(*found, strict=True)
        yield ItemResult(item, nats, tokens, greedy, truncated=truncated)


def _windows_of(lm: LanguageModel, item: BenchmarkItem) -> tuple[BenchmarkItem, list[Window], bool]:
    most, windows, truncated = lm.config.context_length, [], False
    for choice in range(len(item.choices)):
        context, continuation = encode_pair(lm.tokenizer, item.context, item.continuation(choice))
        if len(continuation) > most:
            raise DataError(
                f"{item.where}: choice {choice} has {len(continuation)} tokens, and the model reads {most} at most.",
                "Remove that line, or use a model with a larger context.",
            )
        truncated = truncated or len(context) + len(continuation) > most + 1
        windows.append(window_of(context, continuation, most))
    return item, windows, truncated


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokens of a context and of its continuation, cut as lm-evaluation-harness cuts them.

    The two are encoded as one text, as the model met such text, and cut where the context alone would end. White space
    at the context's end goes to the continuation first, for GPT-2's tokens begin with a space. An empty context is an
    end of text. Should nothing be left for the continuation, because its first letters become one token with the
    context's last, the two are encoded apart. Returns at least one token each, unless the continuation is empty.
    """
    if not context:
        return [tokenizer.eos_token_id], tokenizer.encode(continuation)
    kept = context.rstrip()
    continuation, context = context[len(kept) :] + continuation, kept
    before = tokenizer.encode(context)
    after = tokenizer.encode(context + continuation)[len(before) :]
    return before or [tokenizer.eos_token_id], after or tokenizer.encode(continuation)


def window_of(context: Sequence[int], continuation: Sequence[int], most: int) -> Window:
    """The window that predicts `continuation` from `most` tokens at most; the context's beginning may be left out."""
    ids = np.array([*context, *continuation], dtype=np.int64)[-(most + 1) :]
    return Window(ids[:-1], ids[len(ids) - len(continuation) :])


@dataclass
class Totals:
    """Sums over items."""

    items: int = 0
    choices: int = 0
    truncated: int = 0
    means: dict[str, RatioEstimator] = field(default_factory=lambda: defaultdict(RatioEstimator))
    """Over items: whether the pick of each normalization is right, `greedy`, `chance` and `nats` of the answer."""


def add_up(results: Iterable[ItemResult], on_result: Callable[[ItemResult], None] = lambda result: None) -> Totals:
    """The sums; `on_result` is called with each result as it comes."""
    totals = Totals()
    for result in results:
        answer, choices = result.item.answer, len(result.item.choices)
        totals.items += 1
        totals.choices += choices
        totals.truncated += result.truncated
        right = {name: pick == answer for name, pick in result.picks().items()}
        of_answer = {"greedy": result.greedy[answer], "chance": 1 / choices, "nats": result.nats[answer]}
        for name, value in {**right, **of_answer}.items():
            totals.means[name].add(value)
        on_result(result)
    return totals


class Score(NamedTuple):
    """One number of a table."""

    key: str
    name: str
    value: float
    error: float | None
    also: str = ""
    """What it is called elsewhere."""


_ACCURACIES = {
    "sum": ("accuracy", "accuracy: likeliest choice", "lm-eval acc"),
    "character": ("accuracy_per_character", "  per character", "lm-eval acc_norm"),
    "byte": ("accuracy_per_byte", "  per byte", "lm-eval acc_bytes"),
    "token": ("accuracy_per_token", "  per token", "llm.c acc_norm"),
}


def scores(totals: Totals) -> list[Score]:
    """The results, with standard errors over items: for an accuracy p of n items, the root of p (1 - p) / (n - 1)."""

    def score(name: str, key: str, title: str, also: str = "") -> Score:
        mean = totals.means[name].estimate()
        return Score(key, title, mean.value, mean.standard_error, also=also)

    nll = score("nats", "nats", "NLL of the right answer")
    if totals.choices == totals.items:  # there was nothing to choose: each item asks for one word
        perplexity = math.exp(nll.value) if nll.value < 700 else math.inf
        error = None if nll.error is None else nll.error * perplexity
        return [
            score("greedy", "accuracy", "accuracy: greedy decoding", "lm-eval acc"),
            Score("perplexity", "perplexity of the answer", perplexity, error, also="lm-eval perplexity"),
            nll,
        ]
    chance = Score("chance", "accuracy by guessing", totals.means["chance"].estimate().value, None)
    return [*(score(name, *titles) for name, titles in _ACCURACIES.items()), chance, nll]


def notes(totals: Totals) -> list[str]:
    """What the numbers hold for, in sentences."""
    found = ["Standard errors are over items: for an accuracy p of n items, the root of p (1 - p) / (n - 1)."]
    if totals.truncated:
        found.append(f"{totals.truncated:,} items did not fit the context; the beginning of each was left out.")
    return found


def as_json(totals: Totals) -> dict[str, Any]:
    """Everything for programs."""
    found: dict[str, Any] = {"items": totals.items, "truncated": totals.truncated}
    for key, _, value, error, _ in scores(totals):
        found[key] = value if math.isfinite(value) else None
        if key != "chance":
            found[f"{key}_error"] = error
    return found


def item_json(result: ItemResult) -> dict[str, Any]:
    """One item for programs."""
    item = result.item
    return {
        "item": item.where, "context": item.context, "choices": item.choices, "answer": item.answer,
        "nats": result.nats, "tokens": result.tokens, "greedy": result.greedy, "picks": result.picks(),
        "truncated": result.truncated,
    }  # fmt: skip
