"""Beam search: the likeliest whole text, of several that are written side by side.

It steps through the same `Batch` as drawing does; only the choice is another. Knows no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from handloom.errors import RequestError
from handloom.inference.batch import Batch
from handloom.inference.engine import TokenLogprob, require_possible, token_logprobs
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.logits_processors import process_logits
from handloom.model.gpt import GPT


class Ending(Protocol):
    """Knows whether a text has come to its end, from what was last added to it; never changes."""

    @property
    def ended(self) -> bool:
        """Whether it has."""

    def after(self, token: int) -> Ending:
        """The same of the text with one more token; takes no longer for a longer text."""


@dataclass(frozen=True)
class Hypothesis:
    """A text that may become the answer: another one, and a token."""

    score: float
    """Sum of its log probabilities; of a finished text divided by its length to the power of the length penalty."""
    ending: Ending = field(repr=False)
    before: Hypothesis | None = field(default=None, repr=False)
    choice: TokenLogprob | None = None

    @property
    def token_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Its tokens, from the first to the last."""
        found, one = [], self
        while one.choice is not None and one.before is not None:
            found.append(one.choice)
            one = one.before
        return tuple(reversed(found))


def beam_search(
    model: GPT, prompt: Sequence[int], request: GenerationConfig, n: int, ending: Ending
) -> list[Hypothesis]:
    """The `n` best texts that `request.num_beams` beams find, best first.

    Each step looks at twice as many candidates as there are beams, so that enough go on when some have ended. It
    is over when no running text can become better than the finished ones, by its score so far.

    Source: the conventions of `generate` in transformers, with its `early_stopping=False`; the length penalty as
    in Wu et al. 2016, "Google's Neural Machine Translation System", section 7, in its simple form.

    Args:
        model: in evaluation mode.
        prompt: at least one token.
        request: beams, length_penalty, max_new_tokens, and what looks at the text so far.
        n: at most `request.num_beams`.
        ending: of a text without new tokens.

    Raises:
        RequestError: for more texts than beams, or text beyond the context.
    """
    if n > request.num_beams:
        raise RequestError(f"{n} texts are asked of {request.num_beams} beams.", f"Use --num-beams {n} or more.")
    require_possible(request, model, iter([len(prompt)]))
    batch = Batch(model, [prompt], request.max_new_tokens)
    running, finished = [Hypothesis(0.0, ending)], list[Hypothesis]()
    for length in range(1, request.max_new_tokens + 1):
        going: list[tuple[int, Hypothesis]] = []
        for rank, (row, grown) in enumerate(_candidates(batch, running, request)):
            if length == request.max_new_tokens or grown.ending.ended:
                if rank < request.num_beams:  # a text may end only where it is among the best
                    finished.append(replace(grown, score=_weighed(grown.score, length, request)))
            elif len(going) < request.num_beams:
                going.append((row, grown))
        finished = sorted(finished, key=lambda one: -one.score)[: request.num_beams]
        if not going:
            break
        if len(finished) == request.num_beams:
            hope = max(_weighed(one.score, length, request) for _, one in going)
            if hope <= finished[-1].score:
                break
        batch.keep([row for row, _ in going])
        running = [one for _, one in going]
        batch.extend([one.choice.token for one in running if one.choice is not None])
    return finished[:n]


def _candidates(batch: Batch, running: list[Hypothesis], request: GenerationConfig) -> list[tuple[int, Hypothesis]]:
    """The likeliest ways to go on, best first, each with the row that it grows from."""
    logits = batch.scores()  # (B, V)
    logprobs = process_logits(logits.float().log_softmax(dim=-1), batch.texts, batch.prompts, request)  # (B, V)
    totals = logprobs.double() + torch.tensor([[one.score] for one in running], dtype=torch.float64)  # (B, V)
    best: Tensor
    best, at = totals.flatten().topk(min(2 * request.num_beams, totals.numel()))
    rows, tokens = at // logits.shape[-1], at % logits.shape[-1]
    new = token_logprobs(logits[rows], tokens.tolist(), request.logprobs)
    return [
        (row, Hypothesis(score, running[row].ending.after(choice.token), running[row], choice))
        for row, score, choice in zip(rows.tolist(), best.tolist(), new, strict=True)
        if score > float("-inf")
    ]


def _weighed(score: float, length: int, request: GenerationConfig) -> float:
    return score / float(length**request.length_penalty)
