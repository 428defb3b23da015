"""What a model writes to the prompts of a comparison, how surprised it was at it, and how quickly it wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from handloom.evaluation.memorization import Copied
from handloom.evaluation.spans import Span, spans
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import GenerationStats, LanguageModel

ROWS = 16
"""Texts that are written side by side, at most, unless one prompt gets more."""


@dataclass(frozen=True)
class Sample:
    """One text of a model."""

    prompt: str
    text: str
    """Without the prompt."""
    finish_reason: str
    tokens: int
    nats: float
    """The model's own surprise at it, all tokens together, before sampling changed any probability."""
    spans: tuple[Span, ...]
    copied: Copied | None = None
    """What of it stands in the training text; None if there was none to search."""

    @property
    def nats_per_token(self) -> float:
        """The mean surprise at a token."""
        return self.nats / self.tokens


@dataclass(frozen=True)
class Speed:
    """How quickly a model writes one text alone. Another run gives other numbers."""

    first_token_seconds: float
    tokens_per_second: float | None
    """After the first; None if only one was asked for."""


def generate_samples(lm: LanguageModel, prompts: Sequence[str], request: GenerationConfig, n: int) -> list[Sample]:
    """Let a model continue each prompt `n` times.

    Args:
        lm: the model.
        prompts: what it continues.
        request: how; text number r of a prompt draws from (seed, r), in every model.
        n: texts for each prompt.

    Returns:
        the texts, those of a prompt one after the other.

    Raises:
        RequestError: when a text does not fit the model's context, or another setting does not suit it.
    """
    request = dataclasses.replace(request, logprobs=0)
    written: list[Sample] = []
    at_once = max(1, ROWS // n)
    for at in range(0, len(prompts), at_once):
        some = prompts[at : at + at_once]
        for prompt, done in zip(some, lm.complete_batch(some, request, n), strict=True):
            for one in done.completions:
                assert one.logprobs is not None
                nats = [-(choice.logprob or 0.0) for choice in one.logprobs]
                shaded = spans(lm.tokenizer, one.ids, nats)
                written.append(Sample(prompt, one.text, one.finish_reason, len(one.ids), sum(nats), shaded))
    return written


def speed(lm: LanguageModel, prompt: str, request: GenerationConfig, tries: int = 3) -> Speed:
    """Write one text of the full length a few times, and keep the quickest: others may want the processor too."""
    request = dataclasses.replace(request, min_new_tokens=request.max_new_tokens)
    first, rates = [], []
    for _ in range(tries):
        timing = GenerationStats()
        lm.complete_batch([prompt], request, stats=timing)
        first.append(timing.first_token_seconds)
        if timing.later_tokens:
            rates.append(timing.later_tokens / (timing.seconds - timing.first_token_seconds))
    return Speed(min(first), max(rates, default=None))
