"""Prompt -> text: a model, its tokenizer, and the settings of a request."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom.errors import RequestError, require_type
from handloom.inference.beam import beam_search
from handloom.inference.classify import Classification, classify
from handloom.inference.engine import Engine, TokenEvent, advance, require_possible
from handloom.inference.generation_config import GenerationConfig, require_count, require_streamable
from handloom.inference.logprobs import TokenLogprob, prompt_logprobs
from handloom.inference.prompts import Prompt, prompt_ids
from handloom.inference.sequence import FinishReason
from handloom.inference.sequence import Sequence as Generated
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.pretokenize import each_of


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt."""

    text: str
    """The new text only, without the stop string that ended it, and without a character that the length cut in half."""
    ids: tuple[int, ...]
    """The new tokens, that of the end of text and those of a stop string included."""
    finish_reason: FinishReason
    """`stop` (the model ended the text, or a stop string appeared) or `length`."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """For each new token its log probability, before any setting changed a logit; None if not asked for."""


@dataclass(frozen=True)
class CompletionOutput:
    """What `LanguageModel.complete` returns."""

    completions: tuple[Completion, ...]
    prompt_tokens: int
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """The prompt's tokens with their log probabilities; None if `echo` was not asked for."""


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

    def add(self, tokens: int) -> None:
        """Count tokens that were generated just now."""
        self.seconds = time.perf_counter() - self.began
        self.later_tokens += tokens if self.new_tokens else 0
        self.first_token_seconds = self.first_token_seconds or self.seconds
        self.new_tokens += tokens


class LanguageModel:
    """A model that reads and writes text.

    Settings are those of `GenerationConfig`, by name: `lm.generate("Once", temperature=0.7, top_p=0.9)`; a `config`
    holds the others. A prompt is text to continue, None to begin a new document, or messages, which a model with a
    chat `template` answers: `lm.generate([{"role": "user", "content": "What is a loom?"}])`. `origin` is the folder of
    the model. All that generates raises RequestError for an empty prompt, a setting outside its limits, or text beyond
    the context.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, origin: Path | None = None, template: str | None = None
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.origin = origin
        self.template = template

    @property
    def config(self) -> GPTConfig:
        """The shape of the model."""
        return self.model.config

    def generate(self, prompt: Prompt, config: GenerationConfig | None = None, **settings: Any) -> str:
        """The new text after a prompt."""
        return self.complete(prompt, config, **settings).completions[0].text

    def stream(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        stats: GenerationStats | None = None,
        **settings: Any,
    ) -> Iterator[TokenEvent]:
        """Like `generate`, token by token: the texts of the events make up its text.

        `should_stop` is called after each token; once it returns True, the text ends there, with finish_reason
        "cancel". `stats` is kept up to date.
        """
        config = self.in_ids((config or GenerationConfig()).changed(**settings))
        require_streamable(config)
        ids, stats = self.prompt_ids(prompt), stats or GenerationStats()
        engine = Engine(self.model, self.tokenizer)
        request = engine.add(ids, config)
        stats.prompt_tokens += len(ids)
        for event in engine.run():
            if event.error is not None:
                raise event.error
            stats.add(1)
            yield event
            if event.finish_reason is None and should_stop():
                if (last := engine.cancel(request)) is not None:
                    yield last
                return

    def complete(
        self, prompt: Prompt, config: GenerationConfig | None = None, n: int = 1, **settings: Any
    ) -> CompletionOutput:
        """Continue one prompt `n` times, together: text number r draws from (seed, r)."""
        return next(self.complete_each([prompt], config, n, **settings))

    def complete_batch(
        self, prompts: Sequence[Prompt], config: GenerationConfig | None = None, n: int = 1, **settings: Any
    ) -> list[CompletionOutput]:
        """Continue several prompts, each `n` times; settings and results as `complete_each`."""
        return list(self.complete_each(prompts, config, n, **settings))

    def complete_each(
        self,
        prompts: Sequence[Prompt],
        config: GenerationConfig | None = None,
        n: int = 1,
        *,
        max_rows: int | None = None,
        stats: GenerationStats | None = None,
        **settings: Any,
    ) -> Iterator[CompletionOutput]:
        """Continue several prompts, each `n` times; yields them in order, each as soon as it is complete.

        At most `max_rows` texts are generated together; as some end, others join. A text does not depend on the
        others: number r of a prompt draws from (seed, r). `stats` is kept up to date.
        """
        if config is not None:
            require_type(config, "The config", GenerationConfig, "a GenerationConfig")
        config, n = (config or GenerationConfig()).changed(**settings), require_count(n)
        ids, config = [self.prompt_ids(prompt) for prompt in each_of(prompts)], self.in_ids(config)
        stats = stats or GenerationStats()
        stats.prompt_tokens += sum(map(len, ids))
        found = self._sample(ids, config, n, max_rows=max_rows, stats=stats)
        if config.num_beams > 1:
            found = (list(self._search(one, config, n, stats)) for one in ids)
        for one, completions in zip(ids, found, strict=True):
            echoed = prompt_logprobs(self.model, one, config.logprobs or 0) if config.echo else None
            yield CompletionOutput(tuple(completions), len(one), echoed)

    def classify(self, text: str, overlong: str = "error") -> Classification:
        """Which of its labels the model gives a text, with their probabilities: see `inference.classify`."""
        return classify(self.model, self.tokenizer, [text], overlong)[0]

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens to begin from; None stands for the start of a document.

        Raises:
            RequestError: for an empty prompt, one with half of a character in it, or messages to a model without a
                chat template.
        """
        return prompt_ids(self.tokenizer, prompt, self.template)

    def check(self, prompt: Prompt, config: GenerationConfig) -> None:
        """Raise RequestError where continuing `prompt` would: for its length, or for a setting."""
        require_possible(self.in_ids(config), self.model, self.prompt_ids(prompt))

    def in_ids(self, config: GenerationConfig) -> GenerationConfig:
        """The same config as `Engine` needs it: its words in ids, and what the tokenizer decides filled in."""
        words: list[tuple[int, ...]] = []
        for word in config.bad_words:
            if isinstance(word, str):
                words += {tuple(self.prompt_ids(form)) for form in (word, f" {word}")}
            else:
                words.append(word)
        return dataclasses.replace(
            config,
            logit_bias=tuple((self._one_token(token), amount) for token, amount in config.logit_bias),
            bad_words=tuple(words),
            eos_token_ids=config.eos_token_ids or self.tokenizer.eos_token_ids,
            vocab_size=self.tokenizer.vocab_size,
            unused_ids=self.tokenizer.unused_ids,
        )

    def _sample(
        self,
        prompts: list[list[int]],
        config: GenerationConfig,
        n: int,
        *,
        max_rows: int | None,
        stats: GenerationStats,
    ) -> Iterator[list[Completion]]:
        """The `n` texts of each prompt, as soon as they are complete."""
        engine = Engine(self.model, self.tokenizer, max_rows)
        requests = [[engine.add(prompt, config, row=row) for row in range(n)] for prompt in prompts]
        events: dict[int, list[TokenEvent]] = {request: [] for own in requests for request in own}
        for own in requests:
            while any(not events[request] or events[request][-1].finish_reason is None for request in own):
                step = engine.step()
                stats.add(len(step))
                for event in step:
                    events[event.request].append(event)
            yield [_completion(events.pop(request), config) for request in own]

    def _search(
        self, prompt: list[int], config: GenerationConfig, n: int, stats: GenerationStats
    ) -> Iterator[Completion]:
        """The `n` texts of a prompt by beam search, where all of a text comes at once."""
        for found in beam_search(self.model, prompt, config, n=n, ending=Generated([], config, self.tokenizer)):
            text = Generated([], config, self.tokenizer)
            events = [advance(0, text, one.token, one) for one in found.token_logprobs]
            stats.add(len(events))
            yield _completion(events, config)

    def _one_token(self, token: int | str) -> int:
        if isinstance(token, int):
            return token
        ids = self.prompt_ids(token)
        if len(ids) != 1:
            raise RequestError(
                f"The logit bias names {token!r}, which is {len(ids)} tokens: {', '.join(map(str, ids))}.",
                "Give the id or the text of one token.",
                setting="logit_bias",
            )
        return ids[0]


def _completion(events: Sequence[TokenEvent], config: GenerationConfig) -> Completion:
    """The text of a request that has ended; raises what it failed with."""
    if (error := events[-1].error) is not None:
        raise error
    reason = events[-1].finish_reason
    assert reason is not None
    tokens = tuple(TokenLogprob(one.token, one.logprob, one.top) for one in events if one.token is not None)
    text, ids = "".join(one.text for one in events), tuple(one.token for one in tokens)
    return Completion(text, ids, reason, None if config.logprobs is None else tokens)
