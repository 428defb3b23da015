"""Log probabilities of tokens, as the model gives them: over all its ids, before any setting changes a logit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from handloom.model.gpt import GPT

_CHUNK = 64  # positions whose logits are held in memory together


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
    logprobs = logits.float().log_softmax(dim=-1)  # (N, V)
    values, ids = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)  # each (N, K)
    alternatives = [
        tuple((token, value) for token, value in zip(*pair, strict=True) if value > float("-inf"))
        for pair in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    own = logprobs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    return [TokenLogprob(*each) for each in zip(tokens, own, alternatives, strict=True)]


@torch.inference_mode()
def prompt_logprobs(model: GPT, prompt: Sequence[int], top: int) -> tuple[TokenLogprob, ...]:
    """Each token of a prompt with its log probability, and the `top` likeliest tokens in its place.

    Tokens before the model's window have none, nor has the first token in it.
    """
    begin = window_start(len(prompt), model.config.context_length)
    hidden = model.hidden(torch.tensor([prompt[begin:]], device=model.device))[0, :-1]  # (T - 1, C)
    found = [TokenLogprob(token) for token in prompt[: begin + 1]]
    rest = prompt[begin + 1 :]
    for at in range(0, len(rest), _CHUNK):
        part = slice(at, at + _CHUNK)
        found += token_logprobs(model.unembed(hidden[part]), rest[part], top)
    return tuple(found)


def window_start(length: int, context_length: int) -> int:
    """The first token that is read of a text: of one beyond the context its last half context.

    So a good stretch fits behind it before that has to happen again.
    """
    return length - max(1, context_length // 2) if length > context_length else 0
