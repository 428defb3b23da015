"""Perplexity in every convention: one text, one model, and each number that is published under that name.

Published perplexities differ by what is divided by what, by how much each token is predicted from, and by the form in
which the text was read. Here each is measured, with all that it is made of. The text streams, as often as needed.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from handloom.data.corpus import Corpus
from handloom.data.windows import windows_of
from handloom.errors import ConfigError, DataError
from handloom.evaluation.eval_text import Counts, EvalText, PerplexityConvention
from handloom.evaluation.scoring import MANY_DOCUMENTS, Estimate, RatioEstimator, clusters, score_windows
from handloom.inference.language_model import LanguageModel

STRIDE = 512
"""The other stride that is published, after that of a whole context."""
_READ_AHEAD = 16  # batches of documents scored in the order of their lengths


@dataclass(frozen=True)
class StrideResult:
    """The NLL of the text, read once with one stride."""

    ordinary: bool
    """Whether it was read as ordinary text, detokenized."""
    stride: int
    nats: float
    """NLL of all of its tokens together."""
    counts: Counts
    """Of the text as it was read."""
    units: int
    """Over so many units the standard error is taken."""
    nats_per_token: Estimate


@dataclass(frozen=True)
class PerplexityResult:
    """Everything measured of one text."""

    convention: PerplexityConvention
    context_length: int
    original: Counts
    """Of the text as it is in its file."""
    readings: tuple[StrideResult, ...]
    over: str
    """Units of the standard errors: `documents`, or `blocks` of as many tokens as the context."""


def measure(
    lm: LanguageModel,
    corpus: Corpus,
    convention: PerplexityConvention,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PerplexityResult:
    """Read `corpus` once for each stride; if it is detokenized, also as it is, with the first stride.

    `progress` is called after each window with the tokens done and in all. Memory does not grow with the text.

    Raises DataError when the corpus contains nothing to predict, ConfigError for a convention that the model cannot do.
    """
    context_length, strides = _windowing(convention, lm.config.context_length)
    forms = [False] if convention.detokenize == "none" else [False, True]
    counts = {ordinary: EvalText(lm.tokenizer, corpus, convention, ordinary).count() for ordinary in forms}
    if min(each.tokens for each in counts.values()) < 1:
        raise DataError(
            "The text contains no token that could be predicted.",
            "Give more text, or put an end of text before it: leave `without_end_of_text` out.",
        )
    runs = [*((False, stride) for stride in strides[: len(forms) - 1]), *((forms[-1], stride) for stride in strides)]
    total, done = sum(counts[ordinary].tokens for ordinary, _ in runs), 0
    over = "documents" if counts[False].documents >= MANY_DOCUMENTS else "blocks"

    def counted(scores: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        nonlocal done
        for document, nll in scores:
            yield document, nll
            done += len(nll)
            progress(done, total)

    readings = []
    for ordinary, stride in runs:
        text, estimator = EvalText(lm.tokenizer, corpus, convention, ordinary), RatioEstimator()
        scores = counted(_scores(lm, text, context_length, stride))
        for unit in clusters(scores, None if over == "documents" else context_length):
            estimator.add(*unit)
        readings.append(
            StrideResult(
                ordinary, stride, estimator.total, counts[ordinary],
                units=estimator.units, nats_per_token=estimator.estimate(),
            )
        )  # fmt: skip
    return PerplexityResult(convention, context_length, counts[False], tuple(readings), over=over)


def _windowing(convention: PerplexityConvention, most: int) -> tuple[int, tuple[int, ...]]:
    """The context and the strides, defaults filled in."""
    context_length = convention.context_length or most
    if context_length > most:
        raise ConfigError(
            f"The context is {context_length}; it must be at most the model's, {most}.",
            "Leave `context_length` out to use all of the model's.",
            setting="context_length",
        )
    strides = convention.stride or (context_length, STRIDE if context_length > STRIDE else max(1, context_length // 2))
    for stride in strides:
        if not 1 <= stride <= context_length:
            raise ConfigError(
                f"A stride is {stride}; it must be at least 1 and at most the context, {context_length}, or tokens "
                "would be left out.",
                "Choose another `stride`.",
                setting="stride",
            )
    return context_length, tuple(dict.fromkeys(strides))


def _scores(lm: LanguageModel, text: EvalText, context_length: int, stride: int) -> Iterator[tuple[int, np.ndarray]]:
    """(document, NLL of some of its tokens), in order."""
    begin = None if text.convention.without_end_of_text else lm.tokenizer.eos_token_id
    joined = text.convention.documents == "joined"
    owners: deque[tuple[int | None, int]] = deque()  # of the coming targets: document (None: not counted), how many

    def chunks(documents: Iterable[tuple[int, Iterable[str]]]) -> Iterator[list[int]]:
        """The tokens of documents that are read as one text."""
        unpredicted = begin is None  # whether nothing predicts the next token
        for place, (number, pieces) in enumerate(documents):
            if place and begin is not None:
                owners.append((None, 1))
                yield [begin]
            for ids in filter(None, text.ids(pieces)):
                owners.append((number, len(ids) - unpredicted))
                unpredicted = False
                yield ids

    numbered = enumerate(text.documents())
    windows = chain.from_iterable(
        windows_of(chunks(documents), context_length=context_length, stride=stride, begin=begin)
        for documents in ([numbered] if joined else ([each] for each in numbered))
    )
    for score in score_windows(lm.model, windows, text.convention.batch_size, 1 if joined else _READ_AHEAD):
        nll = score.nll
        while len(nll):
            number, left = owners.popleft()
            taken, nll = nll[:left], nll[left:]
            if len(taken) < left:
                owners.appendleft((number, left - len(taken)))
            if number is not None and len(taken):
                yield number, taken


# The table


class Row(NamedTuple):
    """One line: its key in JSON, its name, and a number for each reading; without numbers it is a heading."""

    key: str
    name: str
    values: tuple[float, ...] = ()


def table_rows(result: PerplexityResult) -> list[Row]:
    """A number for each reading; a perplexity too large for a float is infinite, what cannot be measured is nan."""
    of, is_benchmark = result.original, result.convention.detokenize != "none"
    return [
        Row(key, name, tuple(value(result.context_length, of, r) for r in result.readings) if value else ())
        for key, name, value in _ROWS
        if is_benchmark or key not in _OF_BENCHMARKS
    ]


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _over(amount: float, count: int) -> float:
    return amount / count if count > 0 else math.nan


def _bits(reading: StrideResult) -> float:
    return reading.nats / math.log(2)


def _error(reading: StrideResult) -> float:
    found = reading.nats_per_token.standard_error
    return math.nan if found is None else found


_ROWS: tuple[tuple[str, str, Callable[[int, Counts, StrideResult], float] | None], ...] = (
    ("", "made of", None),
    ("read_before", "read before a token, at least", lambda context_length, of, r: context_length - r.stride + 1),
    ("nats", "NLL in nats", lambda _, of, r: r.nats),
    ("tokens", "tokens", lambda _, of, r: r.counts.tokens),
    ("words", "words", lambda _, of, r: of.words),
    ("tokens_per_word", "tokens per word", lambda _, of, r: _over(r.counts.tokens, of.words)),
    ("lines", "line ends", lambda _, of, r: of.lines),
    ("characters", "characters", lambda _, of, r: of.characters),
    ("bytes", "bytes", lambda _, of, r: of.bytes),
    ("bytes_read", "bytes as they are read", lambda _, of, r: r.counts.bytes),
    ("", "perplexity", None),
    ("token_perplexity", "per token: exp(nats / tokens)", lambda _, of, r: _exp(r.nats_per_token.value)),
    ("token_perplexity_error", "  its standard error", lambda _, of, r: _error(r) * _exp(r.nats_per_token.value)),
    ("word_perplexity", "per word: exp(nats / words)", lambda _, of, r: _exp(_over(r.nats, of.words))),
    (
        "word_and_line_perplexity",
        "per word or line end: exp(nats / both)",
        lambda _, of, r: _exp(_over(r.nats, of.words + of.lines)),
    ),
    ("", "nats", None),
    ("nats_per_token", "per token: nats / tokens", lambda _, of, r: r.nats_per_token.value),
    ("nats_per_token_error", "  its standard error", lambda _, of, r: _error(r)),
    ("", "bits = nats / ln 2", None),
    ("bits_per_character", "per character: bits / characters", lambda _, of, r: _over(_bits(r), of.characters)),
    ("bits_per_byte", "per byte: bits / bytes", lambda _, of, r: _over(_bits(r), of.bytes)),
    ("bits_per_byte_read", "  as it is read", lambda _, of, r: _over(_bits(r), r.counts.bytes)),
)
_OF_BENCHMARKS = {"lines", "bytes_read", "word_and_line_perplexity", "bits_per_byte_read"}


def table_heads(result: PerplexityResult) -> list[str]:
    """A title for each reading."""
    form = {True: "ordinary\n", False: "as it is\n"} if result.convention.detokenize != "none" else {}
    return [f"{form.get(r.ordinary, '')}stride {r.stride:,}" for r in result.readings]


def notes(result: PerplexityResult) -> list[str]:
    """What the numbers hold for, in sentences."""
    how, one = result.convention, result.original.documents == 1
    each = "the text" if one else "each document"
    found = [f"An end of text stands before {each}; it is read and not counted."]
    if how.without_end_of_text:
        each = each if how.documents == "alone" else "the text"
        found = [f"Nothing stands before {each}: its first token is not predicted, and not counted in any unit."]
    if ordinary := [reading for reading in result.readings if reading.ordinary]:
        lines, lost = ordinary[0].counts.lines, ordinary[0].counts.lines_lost
        recovered = (
            f"{lost:,} of {lines:,} lines cannot be recovered exactly" if lost else "every line can be recovered"
        )
        found.append(f"From ordinary text {recovered}. Words, line ends, characters and bytes are those of the file.")
    units = result.readings[0].units
    if units < 2:
        found.append("A standard error takes at least two documents, or two stretches of one context.")
    elif result.over == "documents":
        found.append(f"Standard errors are over {units:,} documents, since tokens of one are not independent.")
    else:
        stretches = f"{units:,} stretches of {result.context_length:,} tokens"
        found.append(f"Standard errors are over {stretches}, since neighbouring tokens are not independent.")
    return found


def as_json(result: PerplexityResult) -> dict[str, Any]:
    """Everything for programs; a number that is not finite is None."""
    numbers = {row.key: row.values for row in table_rows(result) if row.key}
    return {
        "convention": dataclasses.asdict(result.convention),
        "context_length": result.context_length,
        "documents": result.original.documents,
        "standard_error_over": result.over,
        "readings": [
            {
                "ordinary_text": reading.ordinary,
                "stride": reading.stride,
                "units": reading.units,
                "lines_lost": reading.counts.lines_lost,
                **{key: values[at] if math.isfinite(values[at]) else None for key, values in numbers.items()},
            }
            for at, reading in enumerate(result.readings)
        ],
    }
