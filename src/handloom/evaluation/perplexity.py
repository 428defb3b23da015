"""One text, one model, and every number that is called its perplexity, side by side.

Published perplexities differ by what is divided by what, by how much each token is predicted from, and by the form in
which the text was read. Here each is measured, with all that it is made of. The text streams, as often as needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from handloom.data.corpus import Corpus
from handloom.errors import ConfigError, DataError
from handloom.evaluation.eval_text import Counts, EvalText, PerplexityConvention, count
from handloom.evaluation.scoring import Window, read_windows, windows_of
from handloom.evaluation.standard_error import ClusteredStandardError
from handloom.inference.language_model import LanguageModel

STRIDE = 512
"""The other stride that is published, after the one of a whole context."""
ENOUGH = 20
"""Documents from which on the standard error is taken over documents."""
_AHEAD = 16  # batches of documents read in the order of their lengths


@dataclass(frozen=True)
class StrideResult:
    """What reading the text once, with one stride, came to."""

    ordinary: bool
    """Whether it was read as ordinary text, put together again."""
    stride: int
    nats: float
    """The surprise at all of its tokens together."""
    counts: Counts
    """Of the text as it was read."""
    units: int
    """How many parts the standard error was taken over."""
    standard_error: float
    """Of the mean surprise at a token, in nats."""

    @property
    def nats_per_token(self) -> float:
        """The mean surprise at a token."""
        return self.nats / self.counts.tokens


@dataclass(frozen=True)
class PerplexityResult:
    """Everything that was measured of one text."""

    convention: PerplexityConvention
    context_length: int
    original: Counts
    """Of the text as it is in its file; its tokens are those of that form too."""
    readings: tuple[StrideResult, ...]
    over: Literal["documents", "blocks"]
    """What the standard errors were taken over: documents, or stretches of as many tokens as the context."""


def measure(
    lm: LanguageModel,
    corpus: Corpus,
    convention: PerplexityConvention,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PerplexityResult:
    """Read `corpus` once for each stride; if it is put together again, also as it is with the first stride.

    Memory does not grow with the text.

    Args:
        lm: reads.
        corpus: walked several times.
        convention: how to read it.
        progress: told after each window how many tokens are done, and of how many.

    Raises:
        DataError: nothing in the corpus can be predicted.
        ConfigError: a convention outside its limits.
    """
    context_length, strides = _checked(convention, lm.config.context_length)
    forms = [False] if convention.detokenize == "none" else [False, True]
    counts = {ordinary: count(EvalText(lm.tokenizer, corpus, convention, ordinary)) for ordinary in forms}
    if min(each.tokens for each in counts.values()) < 1:
        raise DataError(
            "The text holds no token that could be predicted.",
            "Give more text, or put the end of text before it (leave out --without-end-of-text).",
        )
    runs = [(forms[-1], stride) for stride in strides]
    runs = [(False, strides[0]), *runs] if len(forms) > 1 else runs
    total, done = sum(counts[ordinary].tokens for ordinary, _ in runs), 0
    over: Literal["documents", "blocks"] = "blocks"
    if counts[False].documents >= ENOUGH:
        over = "documents"
    readings = []
    for ordinary, stride in runs:
        text = EvalText(lm.tokenizer, corpus, convention, ordinary)
        spread = ClusteredStandardError(None if over == "documents" else context_length)
        for document, nats in _read(lm, text, context_length, stride):
            spread.add(document, nats)
            done += len(nats)
            progress(done, total)
        nats_in_all, units, error = spread.result()
        readings.append(StrideResult(ordinary, stride, nats_in_all, counts[ordinary], units, error))
    return PerplexityResult(convention, context_length, counts[False], tuple(readings), over)


def _checked(convention: PerplexityConvention, most: int) -> tuple[int, tuple[int, ...]]:
    """The context and the strides that are meant."""
    context_length = most if convention.context_length is None else convention.context_length
    if not 1 <= context_length <= most:
        raise ConfigError(
            f"The context is {context_length}; it must be at least 1 and at most the model's, {most}.",
            "Leave --context-length out to use all of the model's.",
        )
    strides = convention.strides or (context_length, STRIDE if context_length > STRIDE else max(1, context_length // 2))
    for stride in strides:
        if not 1 <= stride <= context_length:
            raise ConfigError(
                f"A stride is {stride}; it must be at least 1 and at most the context, {context_length}, or tokens "
                "would be "
                "left out.",
                "Choose another --stride.",
            )
    for name in ("batch_size", "limit"):
        value = getattr(convention, name)
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} is {value}; it must be at least 1.", "Leave it out for the usual.")
    return context_length, tuple(dict.fromkeys(strides))


def _read(lm: LanguageModel, text: EvalText, context_length: int, stride: int) -> Iterator[tuple[int, np.ndarray]]:
    """(document, surprise at some of its tokens), in order."""
    end_of_text = lm.tokenizer.eos_token_id
    begin = end_of_text if text.convention.begin else None
    # Of the targets that are on their way: document, and how many follow each other. None: not counted.
    coming: deque[tuple[int | None, int]] = deque()

    def noted(number: int, pieces: Iterable[str], unread: bool) -> Iterator[list[int]]:
        for ids in text.ids(pieces):
            coming.append((number, len(ids) - (unread and bool(ids))))
            unread = unread and not ids
            yield ids

    def joined() -> Iterator[list[int]]:
        unread = begin is None
        for number, pieces in enumerate(text.documents()):
            if number and begin is not None:
                coming.append((None, 1))
                yield [begin]
            for ids in noted(number, pieces, unread):
                unread = unread and not ids
                yield ids

    def windows() -> Iterator[Window]:
        if text.convention.documents == "joined":
            yield from windows_of(joined(), context_length=context_length, stride=stride, begin=begin)
            return
        for number, pieces in enumerate(text.documents()):
            chunks = noted(number, pieces, begin is None)
            yield from windows_of(chunks, context_length=context_length, stride=stride, begin=begin)

    ahead = _AHEAD if text.convention.documents == "alone" else 1
    for scored in read_windows(lm.model, windows(), text.convention.batch_size, ahead):
        nats = scored.nats
        while len(nats):
            number, left = coming.popleft()
            taken = min(left, len(nats))
            if taken < left:
                coming.appendleft((number, left - taken))
            if number is not None and taken:
                yield number, nats[:taken]
            nats = nats[taken:]
