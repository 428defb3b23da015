"""Log probabilities of tokens, as the model gives them: over all its ids, before any setting changes a logit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from handloom.model.gpt import GPT
from handloom.model.loss import TokenScores, score_logits, score_tokens


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a text with its log probability."""

    token: int
    logprob: float | None = None
    """Natural logarithm; None if not asked for, or if the model read nothing before the token."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this place with their log probabilities, likeliest first."""


def token_logprobs(logits: Tensor, tokens: Sequence[int], top: int | None) -> list[TokenLogprob]:
    """N tokens with their log probabilities under logits (N, V), and the `top` likeliest; None: without any."""
    if top is None:
        return [TokenLogprob(token) for token in tokens]
    return _as_logprobs(tokens, score_logits(logits, torch.tensor(tokens, device=logits.device), top))


@torch.inference_mode()
def prompt_logprobs(model: GPT, prompt: Sequence[int], top: int) -> tuple[TokenLogprob, ...]:
    """Each token of a prompt with its log probability, and the `top` likeliest tokens in its place.

    Tokens before the model's window have none, nor has the first token in it.
    """
    begin = window_start(len(prompt), model.config.context_length)
    ids = torch.tensor([prompt[begin:]], device=model.device)  # (1, T)
    scores = score_tokens(model.hidden(ids)[0, :-1], model.lm_head, ids[0, 1:], top)
    return (*(TokenLogprob(token) for token in prompt[: begin + 1]), *_as_logprobs(prompt[begin + 1 :], scores))


def _as_logprobs(tokens: Sequence[int], scores: TokenScores) -> list[TokenLogprob]:
    alternatives = zip(scores.top_ids.tolist(), scores.top_logprobs.tolist(), strict=True)
    return [
        TokenLogprob(token, logprob, tuple(zip(*best, strict=True)))
        for token, logprob, best in zip(tokens, (-scores.nll).tolist(), alternatives, strict=True)
    ]


def window_start(length: int, context_length: int) -> int:
    """The first token that is read of a text: of one beyond the context its last half context.

    So a good stretch fits behind it before that has to happen again.
    """
    return length - max(1, context_length // 2) if length > context_length else 0
