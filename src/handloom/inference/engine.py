"""ids -> ids: the one loop that writes. Rows draw a token each, again and again, and leave when they are done.

Knows no text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from handloom.errors import RequestError
from handloom.inference.batch import Batch, window_start
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.logits_processors import process_logits
from handloom.inference.sampling import logits_to_probs, sample
from handloom.model.gpt import GPT
from handloom.model.loss import TokenScores, score_logits, score_tokens


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a text, and how likely the model found it before any setting changed its scores."""

    token: int
    logprob: float | None = None
    """Natural logarithm of its probability; None if not asked for, or if the model read nothing before it."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this place with their log probabilities, likeliest first."""


class Engine:
    """Rows that are written together by drawing.

    Args:
        model: in evaluation mode.
        prompts: one for each row, at least one token each.
        request: see `GenerationConfig`; its words are ids, and its end of text is filled in where it is needed.
        numbers: row r draws from (seed, numbers[r]), whatever the others do; 0, 1, 2, ... if not given.

    Raises:
        RequestError: when a text does not fit the context and the policy is `error`.
    """

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[Sequence[int]],
        request: GenerationConfig,
        numbers: Sequence[int] | None = None,
    ) -> None:
        require_possible(request, model, map(len, prompts))
        self.running = list(range(len(prompts)))
        """The rows that are still written."""
        self._request = request
        self._batch = Batch(model, prompts, request.max_new_tokens)
        keys = [np.array([request.seed, number], dtype=np.uint64) for number in numbers or self.running]
        self._chance = [np.random.Generator(np.random.Philox(key=key)) for key in keys]

    def step(self) -> dict[int, TokenLogprob]:
        """Add a token to each running row, and say which.

        Raises:
            ModelError: when the model's scores are no numbers.
            RequestError: when the settings leave no token to choose.
        """
        batch, request = self._batch, self._request
        logits = batch.scores()  # (B, V)
        p = logits_to_probs(process_logits(logits, batch.texts, batch.prompts, request), request.sampling)  # (B, V)
        # In float32 a number just below 1 would round to 1, past the last token.
        uniform = torch.tensor([self._chance[row].random() for row in self.running], dtype=torch.float64)  # (B)
        tokens = sample(p, uniform).tolist()
        batch.extend(tokens)
        return dict(zip(self.running, token_logprobs(logits, tokens, request.logprobs), strict=True))

    def leave(self, rows: Collection[int]) -> None:
        """These rows are done; the others go on alone."""
        kept = [place for place, row in enumerate(self.running) if row not in rows]
        if len(kept) < len(self.running):
            self.running = [self.running[place] for place in kept]
            self._batch.keep(kept)


def generate_ids(
    model: GPT, prompt: Tensor, request: GenerationConfig, vocabulary: int | None = None
) -> Iterator[Tensor]:
    """Yield the next token of every row, again and again: `Engine`, for rows that stay to the end.

    Args:
        model: in evaluation mode.
        prompt: (B, T) int64, T at least 1.
        request: see `GenerationConfig`.
        vocabulary: how many ids stand for something; as the request says if not given.

    Yields:
        (B) int64, `max_new_tokens` times.

    Raises:
        RequestError: when the text does not fit the context and the policy is `error`.
    """
    if vocabulary is not None:
        request = replace(request, vocab_size=vocabulary)
    writing = Engine(model, prompt.tolist(), request)
    for _ in range(request.max_new_tokens):
        yield torch.tensor([choice.token for choice in writing.step().values()])


def token_logprobs(logits: Tensor, tokens: Sequence[int], top: int | None) -> list[TokenLogprob]:
    """What was chosen, with log probabilities and the `top` likeliest tokens if `top` is not None.

    Args:
        logits: (N, V), as the model gave them.
        tokens: N ids.
        top: how many alternatives.
    """
    if top is None:
        return [TokenLogprob(token) for token in tokens]
    return _as_logprobs(tokens, score_logits(logits, torch.tensor(tokens, device=logits.device), top))


def _as_logprobs(tokens: Sequence[int], scores: TokenScores) -> list[TokenLogprob]:
    alternatives = zip(scores.top_ids.tolist(), scores.top_logprobs.tolist(), strict=True)
    return [
        TokenLogprob(token, logprob, tuple(zip(*best, strict=True)))
        for token, logprob, best in zip(tokens, (-scores.nll).tolist(), alternatives, strict=True)
    ]


@torch.inference_mode()
def prompt_logprobs(model: GPT, prompt: Sequence[int], top: int) -> tuple[TokenLogprob, ...]:
    """Each token of a prompt with its log probability, and the `top` tokens that were likeliest in its place.

    What the model does not read of a prompt beyond its context has none, nor has the first token that it reads.
    """
    begin = window_start(len(prompt), model.config.context_length)
    ids = torch.tensor([prompt[begin:]], device=model.device)  # (1, T)
    scores = score_tokens(model.hidden(ids)[0, :-1], model.lm_head, ids[0, 1:], top)
    rest = prompt[begin + 1 :]
    return (*(TokenLogprob(token) for token in prompt[: begin + 1]), *_as_logprobs(rest, scores))


def require_possible(request: GenerationConfig, model: GPT, prompt_tokens: Iterator[int]) -> None:
    """Raise RequestError when a text would not fit the context, or a setting names a token there is not."""
    for length in prompt_tokens:
        require_room(length, request, model.config.context_length)
    named: list[object] = [token for token, _ in request.sampling.logit_bias]
    named += [token for word in request.sampling.bad_words for token in word]
    for token in named:
        if isinstance(token, int) and not 0 <= token < model.config.vocab_size:
            raise RequestError(
                f"There is no token {token}; the model's ids are 0 to {model.config.vocab_size - 1}.",
                "`handloom tokenize TEXT` shows the ids of a text.",
            )


def require_room(prompt_tokens: int, request: GenerationConfig, context_length: int) -> None:
    """Raise RequestError when the policy is `error` and the text would pass the context."""
    if request.overflow == "slide":
        return
    if prompt_tokens > context_length:
        raise RequestError(
            f"The prompt has {prompt_tokens} tokens, and the model looks at {context_length} at most.",
            "Shorten it, or pass --overflow slide to go on from the last half of the context.",
        )
    # The last new token is never read, so it needs no place.
    if prompt_tokens + request.max_new_tokens - 1 > context_length:
        raise RequestError(
            f"A prompt of {prompt_tokens} tokens and {request.max_new_tokens} new ones pass the model's context of "
            f"{context_length}.",
            f"Ask for at most {context_length - prompt_tokens + 1} new tokens (--max-new-tokens), or pass "
            "--overflow slide.",
        )
