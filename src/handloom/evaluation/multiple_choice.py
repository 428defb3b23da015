"""Which of several continuations does the model find likeliest? Questions answered without a word being written.

A choice's likelihood is that of its tokens behind the context. Longer choices are less likely, so accuracies are
published in several forms; all are counted. In lm-evaluation-harness `acc` is the plain sum, `acc_norm` the sum per
character and `acc_bytes` the sum per byte, of the choice without the space before it. Per token is what llm.c and
others publish as their normalized accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import tee

import numpy as np

from handloom.errors import DataError
from handloom.evaluation.benchmarks import BenchmarkItem
from handloom.evaluation.scoring import Window, read_windows
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.base import Tokenizer

_AHEAD = 16  # batches read in the order of their lengths


@dataclass(frozen=True)
class ItemResult:
    """What the model made of an item."""

    item: BenchmarkItem
    nats: tuple[float, ...]
    """The surprise at each choice, all of its tokens."""
    tokens: tuple[int, ...]
    """Tokens of each choice."""
    greedy: tuple[bool, ...]
    """Whether each choice is what the model would write by itself, always taking the likeliest token."""
    cut: bool
    """Whether the beginning of the context did not fit, and was left out."""

    def picks(self) -> dict[str, int]:
        """The choice taken for each way to compare them; the first of equals."""
        choices = self.item.choices
        per = {
            "sum": [1] * len(choices),
            "character": [len(choice) for choice in choices],
            "byte": [len(choice.encode("utf-8")) for choice in choices],
            "token": self.tokens,
        }
        return {
            name: int(np.argmin([nats / by for nats, by in zip(self.nats, sizes, strict=True)]))
            for name, sizes in per.items()
        }


def answers(lm: LanguageModel, items: Iterable[BenchmarkItem], batch_size: int = 8) -> Iterator[ItemResult]:
    """Answer items one after another; they stream.

    Args:
        lm: reads.
        items: to be answered.
        batch_size: continuations read together; has no influence on the result beyond rounding.

    Raises:
        DataError: a continuation alone is longer than the context.
    """
    stream, again = tee(_pair(lm, item) for item in items)
    windows = (window for pairs in stream for window in pairs[1])
    scored = read_windows(lm.model, windows, batch_size, _AHEAD)
    for item, choices, cut in again:
        found = [next(scored) for _ in choices]
        yield ItemResult(
            item,
            tuple(float(one.nats.sum(dtype=np.float64)) for one in found),
            tuple(len(one.nats) for one in found),
            tuple(one.greedy for one in found),
            cut,
        )


def _pair(lm: LanguageModel, item: BenchmarkItem) -> tuple[BenchmarkItem, list[Window], bool]:
    windows, cut = [], False
    for choice in range(len(item.choices)):
        context, continuation = encode_pair(lm.tokenizer, item.context, item.continuation(choice))
        if len(continuation) > lm.config.context_length:
            raise DataError(
                f"{item.where}: choice {choice} has {len(continuation)} tokens, and the model reads "
                f"{lm.config.context_length} at most.",
                "Remove that line, or use a model with a larger context.",
            )
        cut = cut or len(context) + len(continuation) > lm.config.context_length + 1
        windows.append(window_of(context, continuation, lm.config.context_length))
    return item, windows, cut


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokens of a context and of what follows it, as lm-evaluation-harness cuts them.

    The two are encoded as one text, since that is how the model met such text, and cut where the context alone would
    end. White space at the context's end goes to the continuation first, for GPT-2's tokens begin with a space. An
    empty context is an end of text. Should nothing be left for the continuation, because its first letters become one
    token with the context's last, the two are encoded apart.

    Returns:
        at least one token each, unless the continuation is empty.
    """
    if not context:
        return [tokenizer.eos_token_id], tokenizer.encode(continuation)
    kept = context.rstrip()
    continuation, context = context[len(kept) :] + continuation, kept
    before = tokenizer.encode(context)
    after = tokenizer.encode(context + continuation)[len(before) :]
    return before or [tokenizer.eos_token_id], after or tokenizer.encode(continuation)


def window_of(context: Sequence[int], continuation: Sequence[int], most: int) -> Window:
    """What to read to predict `continuation`: `most` tokens at most, so the context's beginning may be cut off."""
    ids = np.array([*context, *continuation], dtype=np.int64)[-(most + 1) :]
    return Window(ids[:-1], ids[len(ids) - len(continuation) :])


@dataclass
class Totals:
    """Sums over answered items."""

    items: int = 0
    choices: int = 0
    cut: int = 0
    chance: float = 0.0
    """Sum of the probabilities to be right by guessing."""
    right: dict[str, int] = field(default_factory=dict)
    greedy: int = 0
    """Items whose right answer the model would write by itself."""
    nats: float = 0.0
    """Surprise at the right answers."""
    squares: float = 0.0

    def add(self, answered: ItemResult) -> None:
        """Count one more."""
        item = answered.item
        self.items += 1
        self.choices += len(item.choices)
        self.chance += 1 / len(item.choices)
        self.cut += answered.cut
        self.greedy += answered.greedy[item.answer]
        self.nats += answered.nats[item.answer]
        self.squares += answered.nats[item.answer] ** 2
        for name, pick in answered.picks().items():
            self.right[name] = self.right.get(name, 0) + (pick == item.answer)

    @property
    def is_cloze(self) -> bool:
        """Whether there was nothing to choose: each item asks for one word."""
        return self.choices == self.items

    def accuracy(self, right: int) -> tuple[float, float]:
        """The share of right answers, and its standard error; nan for a single item."""
        share = right / self.items
        return share, math.sqrt(share * (1 - share) / (self.items - 1)) if self.items > 1 else math.nan

    def mean_nats(self) -> tuple[float, float]:
        """The mean surprise at a right answer, and its standard error; nan for a single item."""
        mean = self.nats / self.items
        if self.items < 2:
            return mean, math.nan
        spread = max(0.0, self.squares / self.items - mean * mean)
        return mean, math.sqrt(spread / (self.items - 1))


def tally(answered: Iterable[ItemResult], told: Callable[[ItemResult], None] = lambda one: None) -> Totals:
    """Sum up; `told` is given each answer as it comes."""
    sums = Totals()
    for one in answered:
        sums.add(one)
        told(one)
    return sums


@dataclass(frozen=True)
class Score:
    """One number of a table."""

    key: str
    name: str
    value: float
    error: float | None
    also: str = ""
    """What it is called elsewhere."""


def scores(sums: Totals) -> list[Score]:
    """What came out, with standard errors over items (None where one item alone tells nothing)."""

    def score(key: str, name: str, pair: tuple[float, float], also: str = "") -> Score:
        value, error = pair
        return Score(key, name, value, None if math.isnan(error) else error, also)

    mean, error = sums.mean_nats()
    perplexity = math.exp(mean) if mean < 700 else math.inf
    surprise = score("nats", "nats at the right answer", (mean, error))
    if sums.is_cloze:
        return [
            score("accuracy", "accuracy: what it would write", sums.accuracy(sums.greedy), "lm-eval acc"),
            score("perplexity", "perplexity of the answer", (perplexity, error * perplexity), "lm-eval perplexity"),
            surprise,
        ]
    names = {
        "sum": ("accuracy", "accuracy: likeliest choice", "lm-eval acc"),
        "character": ("accuracy_per_character", "  per character", "lm-eval acc_norm"),
        "byte": ("accuracy_per_byte", "  per byte", "lm-eval acc_bytes"),
        "token": ("accuracy_per_token", "  per token", "llm.c acc_norm"),
    }
    found = [score(key, name, sums.accuracy(sums.right.get(way, 0)), also) for way, (key, name, also) in names.items()]
    return [*found, score("chance", "accuracy by guessing", (sums.chance / sums.items, math.nan)), surprise]


def notes(sums: Totals) -> list[str]:
    """What to know about the numbers."""
    found = ["Standard errors are over items: for an accuracy p of n items, the root of p (1 - p) / (n - 1)."]
    if sums.cut:
        found.append(f"{sums.cut:,} items did not fit the context; the beginning of each was left out.")
    return found


def as_json(sums: Totals) -> dict[str, object]:
    """Everything for programs."""
    found: dict[str, object] = {"items": sums.items, "cut": sums.cut}
    for score in scores(sums):
        found[score.key] = score.value if math.isfinite(score.value) else None
        if score.key != "chance":
            found[f"{score.key}_error"] = score.error
    return found


def item_json(one: ItemResult) -> dict[str, object]:
    """What became of one item."""
    return {
        "item": one.item.where,
        "context": one.item.context,
        "choices": one.item.choices,
        "answer": one.item.answer,
        "nats": one.nats,
        "tokens": one.tokens,
        "greedy": one.greedy,
        "picks": one.picks(),
        "cut": one.cut,
    }
