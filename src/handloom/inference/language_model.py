"""Prompt -> text: a model, its tokenizer, and what is asked of them."""

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
from handloom.inference.engine import Engine, TokenLogprob, prompt_logprobs, require_possible
from handloom.inference.generation_config import GenerationConfig, require_count, require_streamable
from handloom.inference.prompts import Prompt, prompt_ids
from handloom.inference.sequence import Row, stop_strings
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
    finish: str
    """Why it ended: `length`, `stop` (a stop string) or `end_of_text` (the model ended the document)."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """For each new token how likely it was, before any setting changed its scores; None if not asked for."""


@dataclass
class GenerationStats:
    """How long writing took, in seconds from the call on, and how much was written."""

    began: float = dataclasses.field(default_factory=time.perf_counter)
    prompt_tokens: int = 0
    new_tokens: int = 0
    later_tokens: int = 0
    """Of the new ones, those that came after the first step."""
    first_token_seconds: float = 0.0
    seconds: float = 0.0

    def wrote(self, tokens: int) -> None:
        """Note that so many tokens were written just now."""
        self.seconds = time.perf_counter() - self.began
        self.later_tokens += tokens if self.new_tokens else 0
        self.first_token_seconds = self.first_token_seconds or self.seconds
        self.new_tokens += tokens


@dataclass(frozen=True)
class CompletionOutput:
    """What `LanguageModel.complete` returns."""

    completions: tuple[Completion, ...]
    prompt_tokens: int
    first_token_seconds: float
    """From the call to the first token of any text of the batch."""
    seconds: float
    """Of the whole batch."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """The prompt's tokens and how likely each was; None if `echo` was not asked for."""


class LanguageModel:
    """A model that reads and writes text.

    Settings are those of `GenerationConfig` and `Sampling`, by name: `lm.generate("Once", temperature=0.7, top_p=0.9)`.

    Args:
        model: tokens (B, T) int64 -> logits (B, T, V).
        tokenizer: the one it was trained with.
        origin: where it came from, for messages.
        template: in which it learned conversations (`tokenizer.chat`); None if it learned none. Such a model is asked
            with messages: `lm.generate([{"role": "user", "content": "What is a loom?"}])`.
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

    def generate(self, prompt: Prompt, *, stop: str | Sequence[str] | None = (), **settings: Any) -> str:
        """Continue `prompt` and return the new text.

        Args:
            prompt: text to continue; None begins a new document; messages are answered.
            stop: strings that end the text where they first appear.
            settings: fields of `GenerationConfig` and of `Sampling`.

        Raises:
            RequestError: for an empty prompt, a setting without meaning, or text beyond the context.
        """
        return self.complete(prompt, GenerationConfig.of(**settings), stop=stop).completions[0].text

    def stream(self, prompt: Prompt, *, stop: str | Sequence[str] | None = (), **settings: Any) -> Iterator[str]:
        """Like `generate`, piece by piece, as soon as each piece is certain.

        No piece holds half a character, and none holds the beginning of a stop string that then came.
        """
        return self.stream_request(prompt, GenerationConfig.of(**settings), stop)

    def stream_request(
        self,
        prompt: Prompt,
        request: GenerationConfig,
        stop: str | Sequence[str] | None = (),
        *,
        timing: GenerationStats | None = None,
        halted: Callable[[], bool] = lambda: False,
    ) -> Iterator[str]:
        """`stream`, with the settings gathered in a `GenerationConfig`.

        Args:
            prompt: as `generate`.
            request: how to continue.
            stop: as `generate`.
            timing: kept up to date, if given.
            halted: asked after each token; once it says yes, the text ends there.
        """
        require_streamable(request)
        ids, row, timing = (
            self.prompt_ids(prompt),
            Row(self.tokenizer, stop_strings(stop)),
            timing or GenerationStats(),
        )
        timing.prompt_tokens += len(ids)
        for _, piece in self._write([ids], [row], self._in_tokens(request), [0], timing):
            if piece:
                yield piece
            if halted():
                break
        if piece := row.close():
            yield piece

    def complete(
        self, prompt: Prompt, request: GenerationConfig, n: int = 1, stop: str | Sequence[str] | None = ()
    ) -> CompletionOutput:
        """Continue one prompt `n` times, together.

        Raises:
            RequestError: as `generate`, or for `n` below 1.
        """
        return self.complete_batch([prompt], request, n, stop)[0]

    def complete_batch(
        self,
        prompts: Sequence[Prompt],
        request: GenerationConfig,
        n: int = 1,
        stop: str | Sequence[str] | None = (),
        *,
        timing: GenerationStats | None = None,
    ) -> list[CompletionOutput]:
        """Continue several prompts, each `n` times, all together.

        What is written to a prompt does not depend on the others: text number r draws from (seed, r).

        Raises:
            RequestError: as `generate`, or for `n` below 1.
        """
        require_type(request, "The request", GenerationConfig, "a Request")
        n = require_count(n)
        if not prompts:
            return []
        timing, stops = timing or GenerationStats(), stop_strings(stop)
        ids = [self.prompt_ids(prompt) for prompt in each_of(prompts)]
        timing.prompt_tokens += sum(map(len, ids))
        request = self._in_tokens(request)
        rows = [Row(self.tokenizer, stops) for _ in range(n * len(prompts))]
        each = [one for one in ids for _ in range(n)]
        if request.num_beams > 1:
            written = self._search(ids, rows, request, n, timing)
        else:
            written = self._write(each, rows, request, list(range(n)) * len(prompts), timing)
        chosen: list[list[TokenLogprob]] = [[] for _ in rows]
        for news, _ in written:
            for row, choice in news.items():
                chosen[row].append(choice)
        for one in rows:
            one.close()
        done = [
            Completion(row.text, tuple(row.ids), row.finish, None if request.logprobs is None else tuple(choices))
            for row, choices in zip(rows, chosen, strict=True)
        ]
        return [
            CompletionOutput(
                tuple(done[at * n : at * n + n]),
                len(one),
                timing.first_token_seconds,
                timing.seconds,
                prompt_logprobs(self.model, one, request.logprobs or 0) if request.echo else None,
            )
            for at, one in enumerate(ids)
        ]

    def classify(self, text: str, overlong: str = "error") -> Classification:
        """Which of its labels the model gives a text, and how likely it finds each: see `inference.classify`."""
        return classify(self.model, self.tokenizer, [text], overlong)[0]

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens to begin from; None stands for the start of a document.

        Raises:
            RequestError: for an empty prompt, one with half of a character in it, or messages to a model that learned
                no conversations.
        """
        return prompt_ids(self.tokenizer, prompt, self.template)

    def check(self, prompt: Prompt, request: GenerationConfig) -> None:
        """Raise RequestError where continuing `prompt` would: for its length, or for a setting of the request."""
        require_possible(self._in_tokens(request), self.model, iter([len(self.prompt_ids(prompt))]))

    def _write(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[Row],
        request: GenerationConfig,
        numbers: Sequence[int],
        timing: GenerationStats,
    ) -> Iterator[tuple[dict[int, TokenLogprob], str]]:
        """Write all rows to their ends; yields the new tokens of each step, and what became certain."""
        writing = Engine(self.model, prompts, request, numbers)
        for _ in range(request.max_new_tokens):
            news = writing.step()
            timing.wrote(len(news))
            yield news, "".join([rows[row].add_token(choice.token) for row, choice in news.items()])
            writing.leave({row for row in writing.running if rows[row].finish})
            if not writing.running:
                return

    def _search(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[Row],
        request: GenerationConfig,
        n: int,
        timing: GenerationStats,
    ) -> Iterator[tuple[dict[int, TokenLogprob], str]]:
        """The same by beam search, where all of a text comes at once."""
        for at, prompt in enumerate(prompts):
            for row, found in enumerate(beam_search(self.model, prompt, request, n, rows[at * n]), at * n):
                timing.wrote(len(found.token_logprobs))
                for choice in found.token_logprobs:
                    yield {row: choice}, rows[row].add_token(choice.token)

    def _in_tokens(self, request: GenerationConfig) -> GenerationConfig:
        """The same request with its words in ids, and the ends of a text filled in."""
        how = request.sampling
        bias = tuple((self._one_token(token), amount) for token, amount in how.logit_bias)
        words: list[tuple[int, ...]] = []
        for word in how.bad_words:
            if isinstance(word, str):
                words += {tuple(self.prompt_ids(form)) for form in (word, f" {word}")}
            else:
                words.append(word)
        sampling = dataclasses.replace(how, logit_bias=bias, bad_words=tuple(words))
        known = self.tokenizer
        return dataclasses.replace(
            request,
            sampling=sampling,
            eos_token_ids=known.eos_token_ids,
            vocab_size=known.vocab_size,
            unused_ids=known.unused_ids,
        )

    def _one_token(self, token: int | str) -> int:
        if isinstance(token, int):
            return token
        ids = self.prompt_ids(token)
        if len(ids) != 1:
            raise RequestError(
                f"The logit bias names {token!r}, which is {len(ids)} tokens: {', '.join(map(str, ids))}.",
                "Give the id or the text of one token.",
            )
        return ids[0]
