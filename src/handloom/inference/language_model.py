"""Prompt -> text: a model, its tokenizer, and the settings of a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from handloom.errors import HandloomError, RequestError, require_type
from handloom.inference.classify import Classification, classify
from handloom.inference.completions import CompletionOutput, GenerationStats, sample_each, search_each
from handloom.inference.engine import Engine, TokenEvent, require_possible
from handloom.inference.generation_config import GenerationConfig, require_count, require_streamable
from handloom.inference.prompts import Prompt, prompt_ids
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.quantization.precision import precision_of
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.pretokenize import each_of


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

    @property
    def precision(self) -> str:
        """Of the model: fp32, or that in which it was loaded."""
        return precision_of(self.model)

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
        stats.speculation = engine.speculation
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
        prompts: Iterable[Prompt],
        config: GenerationConfig | None = None,
        n: int = 1,
        *,
        max_rows: int | None = None,
        stats: GenerationStats | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        keep_errors: bool = False,
        **settings: Any,
    ) -> Iterator[CompletionOutput]:
        """Continue several prompts, each `n` times; yields them in order, each as soon as it is complete.

        At most `max_rows` texts are generated together; as some end, others join. A text does not depend on the
        others: number r of a prompt draws from (seed, r). `stats` is kept up to date. `should_stop` is called after
        each step; once it returns True, texts end where they are ("cancel"), and what has not begun is left out. With
        `keep_errors` a prompt that fails, or is a HandloomError, yields its error, and the others go on.
        """
        if config is not None:
            require_type(config, "The config", GenerationConfig, "a GenerationConfig")
        config, n = self.in_ids((config or GenerationConfig()).changed(**settings)), require_count(n)
        ids: Iterator[list[int] | HandloomError] = (
            self._possible(one, config, keep_errors) for one in each_of(prompts)
        )
        if not keep_errors:
            ids = iter(list(ids))  # refuse before anything is generated
        how: dict[str, Any] = {"stats": stats or GenerationStats(), "should_stop": should_stop}
        if config.num_beams > 1:
            outputs = search_each(self.model, self.tokenizer, ids, (config, n), **how)
        else:
            outputs = sample_each(Engine(self.model, self.tokenizer, max_rows), ids, (config, n), **how)
        for output in outputs:
            if output.error is not None and not keep_errors:
                raise output.error
            yield output

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

    def _possible(self, prompt: Any, config: GenerationConfig, keep_errors: bool) -> list[int] | HandloomError:
        """A prompt's ids, or the error to keep."""
        try:
            if isinstance(prompt, HandloomError):
                raise prompt
            require_possible(config, self.model, ids := self.prompt_ids(prompt))
        except HandloomError as error:
            if not keep_errors:
                raise
            return error
        return ids

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
