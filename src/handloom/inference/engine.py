"""ids -> ids: read the prompt in one pass, then one token at a time.

Knows no text. A batch of rows of equal length moves in step; a single text is a batch of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from handloom.errors import ModelError, RequestError
from handloom.inference.sampling import Sampling, draw, probabilities, require_number
from handloom.model.gpt import GPT
from handloom.model.kv_cache import KVCache

OVERFLOW = ("error", "slide")


@dataclass(frozen=True)
class Request:
    """How to continue: how far, how to choose, and what to do at the edge of the context."""

    max_new_tokens: int = 100
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    """The same seed gives the same text; row r of a batch draws from (seed, r), whatever the others do."""
    overflow: str = "error"
    """`error` refuses text that would pass the context; `slide` goes on from its last half."""

    def __post_init__(self) -> None:
        require_number("max_new_tokens", self.max_new_tokens, whole=True)
        require_number("seed", self.seed, whole=True)
        if self.max_new_tokens < 1:
            raise RequestError(
                f"max_new_tokens is {self.max_new_tokens}; it must be at least 1.",
                "Ask for one token or more.",
            )
        if not 0 <= self.seed < 2**64:
            raise RequestError(
                f"The seed is {self.seed}; it must be at least 0 and below 2^64.",
                "Use any whole number from 0 up.",
            )
        if self.overflow not in OVERFLOW:
            raise RequestError(
                f"There is no overflow policy {self.overflow!r}.",
                f"The policies are {' and '.join(OVERFLOW)}.",
            )


@torch.inference_mode()
def continuations(
    model: GPT, prompt: Tensor, request: Request, vocabulary: int | None = None
) -> Iterator[Tensor]:
    """Yield the next token of every row, again and again.

    Args:
        model: in evaluation mode.
        prompt: (B, T) int64, T at least 1.
        request: see `Request`.
        vocabulary: how many ids stand for something. A model may have more, so that its size is a round
            number; those are never chosen. All of them if not given.

    Yields:
        (B) int64, `max_new_tokens` times.

    Raises:
        RequestError: when the text does not fit the context and the policy is `error`.
    """
    context = model.config.context
    require_room(prompt.shape[1], request, context)
    keys = (np.array([request.seed, row], dtype=np.uint64) for row in range(len(prompt)))
    rows = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
    text = prompt  # (B, T) everything so far, no more of it than may be read again
    cache, unread = (
        _new_cache(model, text, request),
        _last_half(text, context) if text.shape[1] > context else text,
    )
    for _ in range(request.max_new_tokens):
        if cache.length + unread.shape[1] > context:
            unread = _last_half(text, context)
            cache.truncate(0)
        hidden = model.hidden(unread, cache)[:, -1]  # (B, C): only the last position needs logits
        logits = model.unembed(hidden)  # (B, V)
        if not logits.isfinite().all():
            raise ModelError(
                "The model's scores are not finite numbers, so no token can be chosen.",
                "Its weights are damaged; use an earlier checkpoint.",
            )
        if vocabulary is not None and vocabulary < logits.shape[-1]:
            logits[:, vocabulary:] = float("-inf")
        p = probabilities(logits, request.sampling)  # (B, V)
        # In float32 a number just below 1 would round to 1, past the last token.
        uniform = torch.tensor([row.random() for row in rows], dtype=torch.float64)  # (B)
        chosen = draw(p, uniform)  # (B)
        unread = chosen[:, None]  # (B, 1)
        text = torch.cat([text, unread], dim=1)[:, -context:]  # (B, T)
        yield chosen


def require_room(prompt_tokens: int, request: Request, context: int) -> None:
    """Raise RequestError when the policy is `error` and the text would pass the context."""
    if request.overflow == "slide":
        return
    if prompt_tokens > context:
        raise RequestError(
            f"The prompt has {prompt_tokens} tokens, and the model looks at {context} at most.",
            "Shorten it, or pass --overflow slide to go on from the last half of the context.",
        )
    # The last new token is never read, so it needs no place.
    if prompt_tokens + request.max_new_tokens - 1 > context:
        raise RequestError(
            f"A prompt of {prompt_tokens} tokens and {request.max_new_tokens} new ones pass the model's context of "
            f"{context}.",
            f"Ask for at most {context - prompt_tokens + 1} new tokens (--max-new-tokens), or pass --overflow slide.",
        )


def _new_cache(model: GPT, prompt: Tensor, request: Request) -> KVCache:
    capacity = min(model.config.context, prompt.shape[1] + request.max_new_tokens)
    return KVCache(model.config, len(prompt), capacity, model.head_weight.dtype)


def _last_half(text: Tensor, context: int) -> Tensor:
    """The end of the text, short enough that a good stretch fits behind it."""
    return text[:, -max(1, context // 2) :]
