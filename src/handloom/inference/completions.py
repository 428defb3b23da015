"""The texts of many prompts: each as soon as it is complete, in order, while rows leave and join the batch."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from handloom.errors import HandloomError
from handloom.inference.beam import beam_search
from handloom.inference.engine import Engine, TokenEvent, advance
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.logprobs import TokenLogprob, prompt_logprobs
from handloom.inference.prompt_lookup import Speculation
from handloom.inference.sequence import FinishReason
from handloom.inference.sequence import Sequence as Generated
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer

Prompts = Iterator[list[int] | HandloomError]
"""The ids of prompts, or why one cannot be continued."""


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt."""

    text: str
    """The new text only, without the stop string that ended it, and without a character that the length cut in half."""
    ids: tuple[int, ...]
    """The new tokens, that of the end of text and those of a stop string included."""
    finish_reason: FinishReason
    """`stop` (the model ended the text, or a stop string appeared), `length`, or `cancel`."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """For each new token its log probability, before any setting changed a logit; None if not asked for."""


@dataclass(frozen=True)
class CompletionOutput:
    """What `LanguageModel.complete` returns."""

    completions: tuple[Completion, ...]
    prompt_tokens: int
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """The prompt's tokens with their log probabilities; None if `echo` was not asked for."""
    error: HandloomError | None = None
    """Why there are no completions, where errors are kept."""


@dataclass
class GenerationStats:
    """Seconds from the call on, and tokens."""

    began: float = dataclasses.field(default_factory=time.perf_counter)
    prompt_tokens: int = 0
    new_tokens: int = 0
    later_tokens: int = 0
    """Of the new ones, those that came after the first step."""
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    speculation: Speculation = dataclasses.field(default_factory=Speculation)

    def add(self, tokens: int) -> None:
        """Count tokens that were generated just now."""
        self.seconds = time.perf_counter() - self.began
        self.later_tokens += tokens if self.new_tokens else 0
        self.first_token_seconds = self.first_token_seconds or self.seconds
        self.new_tokens += tokens


def sample_each(
    engine: Engine,
    prompts: Prompts,
    request: tuple[GenerationConfig, int],
    *,
    stats: GenerationStats,
    should_stop: Callable[[], bool],
) -> Iterator[CompletionOutput]:
    """Sample texts for each prompt, by a config and their number. Prompts are read as rows for them become free."""
    config, n = request
    queue: deque[tuple[list[int] | HandloomError, list[list[TokenEvent]]]] = deque()  # with the events of n requests
    running: dict[int, list[TokenEvent]] = {}
    stats.speculation = engine.speculation
    while True:
        while engine.max_rows is None or len(running) < 2 * engine.max_rows:  # enough to fill every row that ends
            if (ids := next(prompts, None)) is None:
                break
            rows: list[list[TokenEvent]] = []
            if not isinstance(ids, HandloomError):
                stats.prompt_tokens += len(ids)
                rows = [running.setdefault(engine.add(ids, config, row=row), []) for row in range(n)]
            queue.append((ids, rows))
        while queue and all(events and events[-1].finish_reason is not None for events in queue[0][1]):
            yield _output(*queue.popleft(), config, engine.model)
        if not queue:
            return
        events = engine.step()
        stats.add(len(events))
        for event in events:
            running[event.request].append(event)
            if event.finish_reason is not None:
                del running[event.request]
        if should_stop():
            prompts, queue = iter(()), deque(itertools.takewhile(lambda one: any(one[1]) or not one[1], queue))
            for number, own in running.items():
                own += [last for last in [engine.cancel(number)] if last is not None]
            running = {}


def search_each(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Prompts,
    request: tuple[GenerationConfig, int],
    *,
    stats: GenerationStats,
    should_stop: Callable[[], bool],
) -> Iterator[CompletionOutput]:
    """The texts of each prompt by beam search, where all of a text comes at once."""
    config, n = request
    for ids in prompts:
        if should_stop():
            return
        rows: list[list[TokenEvent]] = []
        if not isinstance(ids, HandloomError):
            stats.prompt_tokens += len(ids)
            for found in beam_search(model, ids, config, n=n, ending=Generated([], config, tokenizer)):
                text = Generated([], config, tokenizer)
                rows.append([advance(0, text, one.token, one) for one in found.token_logprobs])
                stats.add(len(rows[-1]))
        yield _output(ids, rows, config, model)


def _output(
    ids: list[int] | HandloomError, rows: list[list[TokenEvent]], config: GenerationConfig, model: GPT
) -> CompletionOutput:
    """The texts of a prompt that have ended, or the error that one of them failed with."""
    if isinstance(ids, HandloomError):
        return CompletionOutput((), 0, error=ids)
    if error := next((events[-1].error for events in rows if events[-1].error is not None), None):
        return CompletionOutput((), len(ids), error=error)
    echoed = prompt_logprobs(model, ids, config.logprobs or 0) if config.echo else None
    return CompletionOutput(tuple(_completion(events, config) for events in rows), len(ids), echoed)


def _completion(events: Sequence[TokenEvent], config: GenerationConfig) -> Completion:
    """The text of a request that has ended."""
    reason = events[-1].finish_reason
    assert reason is not None
    tokens = tuple(TokenLogprob(one.token, one.logprob, one.top) for one in events if one.token is not None)
    text, ids = "".join(one.text for one in events), tuple(one.token for one in tokens)
    return Completion(text, ids, reason, None if config.logprobs is None else tokens)
