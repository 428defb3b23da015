"""Samples of a model: continuations of prompts with the model's own NLL of every token, and decoding speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from handloom.evaluation.text_metrics import Copied
from handloom.inference.completions import GenerationStats
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.base import StreamingDetokenizer, Tokenizer

ROWS = 16
"""Texts in a batch, at most, unless one prompt gets more."""


@dataclass(frozen=True)
class Span:
    """A token as text; or several tokens that only together are whole characters."""

    text: str
    """Empty for the end of text."""
    nats: float
    """NLL of all of its tokens together."""
    start: int
    """Where it begins in the text, in characters."""


def token_spans(tokenizer: Tokenizer, ids: Sequence[int], nats: Sequence[float]) -> tuple[Span, ...]:
    """The spans of N ids with N values of NLL; an incomplete character at the end is left out."""
    stream = StreamingDetokenizer(tokenizer)
    spans: list[Span] = []
    held, at = 0.0, 0
    for token, nll in zip(ids, nats, strict=True):
        held += nll
        text = "" if token == tokenizer.eos_token_id else stream.add_token(token)
        if text or token == tokenizer.eos_token_id:
            spans.append(Span(text, held, at))
            held, at = 0.0, at + len(text)
    return tuple(spans)


@dataclass(frozen=True)
class Sample:
    """One continuation of a prompt."""

    prompt: str
    text: str
    """Without the prompt."""
    finish_reason: str
    tokens: int
    nats: float
    """The model's NLL of the continuation, summed over tokens, before sampling changed any probability."""
    spans: tuple[Span, ...]
    copied: Copied | None = None
    """What of it stands in the training text; None if that was not searched."""

    @property
    def nats_per_token(self) -> float:
        """The mean NLL of a token."""
        return self.nats / self.tokens


@dataclass(frozen=True)
class Speed:
    """Decoding speed of one text alone. Another run gives other numbers."""

    first_token_seconds: float
    tokens_per_second: float | None
    """After the first; None if only one was requested."""


def generate_samples(lm: LanguageModel, prompts: Sequence[str], request: GenerationConfig, n: int) -> list[Sample]:
    """Continue each prompt `n` times; text number r of a prompt draws from (seed, r), in every model.

    Returns the texts of a prompt one after the other. Raises RequestError when one does not fit the model's context, or
    a setting does not suit the model.
    """
    request = dataclasses.replace(request, logprobs=0)
    samples: list[Sample] = []
    at_once = max(1, ROWS // n)
    for at in range(0, len(prompts), at_once):
        batch = prompts[at : at + at_once]
        for prompt, output in zip(batch, lm.complete_batch(batch, request, n), strict=True):
            for one in output.completions:
                nats = [-(token.logprob or 0.0) for token in one.logprobs or ()]
                spans = token_spans(lm.tokenizer, one.ids, nats)
                samples.append(
                    Sample(prompt, one.text, one.finish_reason, tokens=len(one.ids), nats=sum(nats), spans=spans)
                )
    return samples


def measure_speed(lm: LanguageModel, prompt: str, request: GenerationConfig, tries: int = 3) -> Speed:
    """Generate one text of the full length a few times; the quickest counts, since other processes take their time."""
    request = dataclasses.replace(request, min_new_tokens=request.max_new_tokens)
    first, rates = [], []
    for _ in range(tries):
        timing = GenerationStats()
        lm.complete_batch([prompt], request, stats=timing)
        first.append(timing.first_token_seconds)
        if timing.later_tokens:
            rates.append(timing.later_tokens / (timing.seconds - timing.first_token_seconds))
    return Speed(min(first), max(rates, default=None))
