"""The decode loop: each step samples one token for every running sequence. Sequences join and leave at any step.

Everything that decodes stands on `Engine.step`; beam search alone uses the `Batch` below it. Knows no threads.
"""

from __future__ import annotations

import itertools
import time
from collections import abc, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from handloom.errors import HandloomError, RequestError
from handloom.inference.batch import Batch
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.logits_processors import no_choice, process_logits
from handloom.inference.logprobs import TokenLogprob, token_logprobs
from handloom.inference.prompt_lookup import Speculation
from handloom.inference.sampling import sample_logits
from handloom.inference.sequence import FinishReason, Sequence
from handloom.model.embedding import require_ids
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class TokenEvent:
    """What a step did to one request: a token, or its end."""

    request: int
    token: int | None = None
    """None in the event of a request that failed or was cancelled."""
    text: str = ""
    """New text that is certain: no half character, and nothing that a stop string may begin with."""
    logprob: float | None = None
    """If the config has `logprobs`: of the token, as the model gives it."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in its place, with their log probabilities."""
    finish_reason: FinishReason | None = None
    error: HandloomError | None = None
    """Why the request failed, where `finish_reason` is "error"."""


Choose = Callable[[Tensor, list[Sequence]], abc.Sequence[int | HandloomError]]
"""Logits (B, V) of B sequences -> a token for each, or why there is none."""


def choose_tokens(logits: Tensor, sequences: list[Sequence]) -> list[int | HandloomError]:
    """Sample a token for each sequence by its own settings and random numbers: one call for all with equal settings."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, sequence in enumerate(sequences):
        groups.setdefault(sequence.logits_key, []).append(place)
    chosen: list[int | HandloomError] = [0] * len(sequences)
    for places in groups.values():
        group, config = [sequences[place] for place in places], sequences[places[0]].config
        part = logits if len(groups) == 1 else logits[places]  # (G, V)
        part = process_logits(part, [one.ids for one in group], [one.prompt_tokens for one in group], config)
        if config.temperature == 0:
            # One copy to the host for both; token ids are exact in float64.
            highest, tokens = torch.stack([one.double() for one in part.max(dim=-1)]).tolist()  # (G) each
        else:
            highest = part.amax(dim=-1).tolist()
            tokens = sample_logits(part, config, [one.uniform() for one in group])
        for place, token, best in zip(places, tokens, highest, strict=True):
            chosen[place] = no_choice(best) or int(token)
    return chosen


class Engine:
    """Continuous batching of requests for one model.

    The model is in evaluation mode. Without a tokenizer events have no text. At most `max_rows` sequences run
    together, and others wait for a free row; `choose` makes tokens of logits. A sequence's tokens do not depend on
    what runs with it: its logits are those it has alone, up to the rounding of sums over other shapes.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer | None = None,
        max_rows: int | None = None,
        choose: Choose = choose_tokens,
    ) -> None:
        self.model = model
        self._batch = Batch(model)
        self._tokenizer = tokenizer
        self.max_rows = max_rows
        self._choose = choose
        self._waiting: deque[tuple[int, Sequence]] = deque()
        self._running: list[tuple[int, Sequence]] = []  # in the order of the batch's rows
        self._added = 0
        self.speculation = Speculation()

    def add(self, prompt: abc.Sequence[int], config: GenerationConfig, *, row: int = 0) -> int:
        """Queue a prompt of at least one token; returns the number of the request.

        The config has its words in ids and the ends of a text filled in (`LanguageModel.in_ids`). The sequence draws
        from (config.seed, row).

        Raises:
            RequestError: when it cannot be served; others are not affected.
            ModelError: for an id that the model does not have.
        """
        require_possible(config, self.model, prompt)
        self._waiting.append((self._added, Sequence(prompt, config, self._tokenizer, row)))
        self._added += 1
        return self._added - 1

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """Prefill what was added, then decode one token for every running sequence.

        An event for each of them: what ends is not running any more, and where the model's logits or the settings
        leave no token to choose, only that sequence fails.
        """
        while self._waiting and (self.max_rows is None or len(self._running) < self.max_rows):
            self._running.append(self._waiting.popleft())
            sequence = self._running[-1][1]
            self._batch.add(sequence.ids, sequence.config.max_new_tokens)
        if not self._running:
            return []
        most = self._proposable()
        events = self._decode(self._batch.next_logits()) if most is None else self._speculate(most)
        ended = {event.request for event in events if event.finish_reason is not None}
        for place in reversed(range(len(self._running))):
            if self._running[place][0] in ended:
                self._remove(place)
        return events

    def cancel(self, request: int) -> TokenEvent | None:
        """End a request: its last event, with the text that was held back; None if it is not there any more."""
        for each in (*self._running, *self._waiting):
            if each[0] == request:
                if each in self._waiting:
                    self._waiting.remove(each)
                else:
                    self._remove(self._running.index(each))
                return TokenEvent(request, text=each[1].finalize("cancel"), finish_reason="cancel")
        return None

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return bool(self._running or self._waiting)

    def run(self) -> Iterator[TokenEvent]:
        """The events of all steps, until every request has ended."""
        while self.busy:
            yield from self.step()

    def _decode(self, logits: Tensor) -> list[TokenEvent]:
        """A token for each running sequence, from logits (B, V)."""
        sequences = [sequence for _, sequence in self._running]
        tokens = self._choose(logits, sequences)
        logprobs = _logprobs(logits, sequences, tokens)
        return [
            advance(request, sequence, token, logprobs.get(place))
            for place, ((request, sequence), token) in enumerate(zip(self._running, tokens, strict=True))
        ]

    def _proposable(self) -> int | None:
        """How many proposed tokens may be verified with the next token; None without speculation in this step."""
        sequence = self._running[0][1]
        asked = sequence.config.prompt_lookup_num_tokens
        if asked is None or not (room := self._batch.verifiable):
            return None
        left = sequence.config.max_new_tokens - (len(sequence.ids) - sequence.prompt_tokens) - 1
        return min(asked, left, room)

    def _speculate(self, most: int) -> list[TokenEvent]:
        """One token of the only sequence, and those proposed tokens behind it that are what it draws."""
        began = time.perf_counter()
        proposed = self.speculation.propose(self._running[0][1].ngrams, most)
        events: list[TokenEvent] = []
        logits = self._batch.verify(proposed) if proposed else self._batch.next_logits()  # (1 + k, V)
        for row, wanted in zip(logits.split(1), [*proposed, None], strict=True):
            events += self._decode(row)
            if events[-1].token != wanted or events[-1].finish_reason is not None:
                break
        if proposed:
            self._batch.crop()
        accepted = sum(event.token == wanted for event, wanted in zip(events, proposed, strict=False))
        self.speculation.record(time.perf_counter() - began, len(proposed), accepted)
        return events

    def _remove(self, place: int) -> None:
        """Free a row; the last row takes its place, in the batch as here."""
        self._running[place] = self._running[-1]
        self._running.pop()
        self._batch.remove(place)


def advance(request: int, sequence: Sequence, token: int | HandloomError, logprob: TokenLogprob | None) -> TokenEvent:
    """The event of a sequence that gets a token, or fails."""
    if isinstance(token, HandloomError):
        return TokenEvent(request, text=sequence.finalize("error"), finish_reason="error", error=token)
    text, scores = sequence.add_token(token), logprob or TokenLogprob(token)
    return TokenEvent(request, token, text, scores.logprob, top=scores.top, finish_reason=sequence.finish_reason)


def _logprobs(
    logits: Tensor, sequences: list[Sequence], tokens: abc.Sequence[int | HandloomError]
) -> dict[int, TokenLogprob]:
    """Of the tokens of sequences that ask for them, by their places."""
    found: dict[int, TokenLogprob] = {}
    for top in {sequence.config.logprobs for sequence in sequences} - {None}:
        asking = [place for place, sequence in enumerate(sequences) if sequence.config.logprobs == top]
        chosen = {place: token for place in asking if isinstance(token := tokens[place], int)}
        if chosen:
            part = logits if len(chosen) == len(logits) else logits[list(chosen)]  # (N, V)
            found.update(zip(chosen, token_logprobs(part, list(chosen.values()), top), strict=True))
    return found


def require_possible(config: GenerationConfig, model: GPT, prompt: abc.Sequence[int]) -> None:
    """Raise RequestError when the text would not fit the context, or an id (checked here once) is not the model's."""
    require_room(len(prompt), config, model.config.context_length)
    require_ids(prompt, model.config.vocab_size)
    if (config.min_new_tokens or config.forced_eos) and not config.eos_token_ids:
        raise RequestError("No id ends a text.", "Pass `eos_token_ids`, or let LanguageModel fill them in.")
    named: list[object] = [*(token for token, _ in config.logit_bias), *itertools.chain(*config.bad_words)]
    for token in (*named, *config.eos_token_ids):
        if not isinstance(token, int):
            raise RequestError(f"{token!r} is not a token id.", "Let LanguageModel turn words into ids.")
        if not 0 <= token < model.config.vocab_size:
            raise RequestError(
                f"There is no token {token}; the model's ids are 0 to {model.config.vocab_size - 1}.",
                "`handloom tokenize TEXT` shows the ids of a text.",
            )


def require_room(prompt_tokens: int, config: GenerationConfig, context_length: int) -> None:
    """Raise RequestError when overflow is `error` and the text would pass the context."""
    if config.overflow == "slide":
        return
    if prompt_tokens > context_length:
        raise RequestError(
            f"The prompt has {prompt_tokens} tokens, and the model's context is {context_length}.",
            "Shorten it, or pass `overflow=slide` to go on from the last half of the context.",
            setting="overflow",
        )
    # The last new token is never read, so it needs no place.
    if prompt_tokens + config.max_new_tokens - 1 > context_length:
        raise RequestError(
            f"A prompt of {prompt_tokens} tokens and {config.max_new_tokens} new ones pass the model's context of "
            f"{context_length}.",
            f"Lower `max_new_tokens` to at most {context_length - prompt_tokens + 1}, or pass `overflow=slide`.",
            setting="max_new_tokens",
        )
