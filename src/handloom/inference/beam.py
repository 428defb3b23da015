"""Beam search: the likeliest whole text among several hypotheses that are extended together.

It steps through the same `Batch` as sampling does; only the choice differs.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from handloom.errors import RequestError
from handloom.inference.batch import Batch
from handloom.inference.engine import require_possible
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.logits_processors import no_choice, process_logits
from handloom.inference.logprobs import TokenLogprob, token_logprobs
from handloom.model.gpt import GPT


class Ending(Protocol):
    """Whether a text has ended, from what was last added to it (`Sequence`)."""

    @property
    def finish_reason(self) -> str | None:
        """None while it goes on."""

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
    model: GPT, prompt: abc.Sequence[int], config: GenerationConfig, n: int, ending: Ending
) -> list[Hypothesis]:
    """The `n` best texts that `config.num_beams` beams find, best first. `ending` is that of a text without new tokens.

    Each step looks at twice as many candidates as there are beams, so that enough go on when some have ended. It
    is over when no running text can become better than the finished ones, by its present score.

    Source: the conventions of `generate` in transformers, with its `early_stopping=False`; the length penalty as
    in Wu et al. 2016, "Google's Neural Machine Translation System", section 7, in its simple form.

    Raises:
        RequestError: for more texts than beams, or text beyond the context.
    """
    if n > config.num_beams:
        raise RequestError(
            f"{n} texts are asked of {config.num_beams} beams.", f"Pass `num_beams={n}` or more.", setting="num_beams"
        )
    require_possible(config, model, prompt)
    batch = Batch(model)
    batch.add(list(prompt), config.max_new_tokens)
    running, finished = [Hypothesis(0.0, ending)], list[Hypothesis]()
    for length in range(1, config.max_new_tokens + 1):
        going: list[tuple[int, Hypothesis]] = []
        for rank, (row, grown) in enumerate(_candidates(batch, len(prompt), running, config)):
            if length == config.max_new_tokens or grown.ending.finish_reason is not None:
                if rank < config.num_beams:  # a text may end only where it is among the best
                    finished.append(replace(grown, score=_weighed(grown.score, length, config)))
            elif len(going) < config.num_beams:
                going.append((row, grown))
        finished = sorted(finished, key=lambda one: -one.score)[: config.num_beams]
        if not going:
            break
        if len(finished) == config.num_beams:
            hope = max(_weighed(one.score, length, config) for _, one in going)
            if hope <= finished[-1].score:
                break
        batch.select([row for row, _ in going])
        running = [one for _, one in going]
        for text, one in zip(batch.texts, running, strict=True):
            text += [one.choice.token] if one.choice is not None else []
    return finished[:n]


def _candidates(
    batch: Batch, prompt_tokens: int, running: list[Hypothesis], config: GenerationConfig
) -> list[tuple[int, Hypothesis]]:
    """The likeliest ways to go on, best first, each with the row that it grows from."""
    logits = batch.next_logits()  # (B, V)
    prompts = [prompt_tokens] * len(running)
    logprobs = process_logits(logits.float().log_softmax(dim=-1), batch.texts, prompts, config)  # (B, V)
    for highest in logprobs.amax(dim=-1).tolist():
        if error := no_choice(highest):
            raise error
    scores = torch.tensor([[one.score] for one in running], dtype=torch.float64, device=logits.device)  # (B, 1)
    totals = logprobs.double() + scores  # (B, V)
    best: Tensor
    best, at = totals.flatten().topk(min(2 * config.num_beams, totals.numel()))
    rows, tokens = at // logits.shape[-1], at % logits.shape[-1]
    new = token_logprobs(logits[rows], tokens.tolist(), config.logprobs)
    return [
        (row, Hypothesis(score, running[row].ending.after(choice.token), running[row], choice))
        for row, score, choice in zip(rows.tolist(), best.tolist(), new, strict=True)
        if score > float("-inf")
    ]


def _weighed(score: float, length: int, config: GenerationConfig) -> float:
    return score / float(length**config.length_penalty)
