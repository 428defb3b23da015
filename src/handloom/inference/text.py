"""Prompt -> text: a model, its tokenizer, and the rules for when a text ends."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from handloom.errors import RequestError
from handloom.inference.engine import Request, continuations
from handloom.inference.sampling import Sampling, require_number
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.stream import TextStream


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt."""

    text: str
    """The new text only, without the stop string that ended it, and without a character that the length cut in half."""
    ids: tuple[int, ...]
    """The new tokens, that of the end of text and those of a stop string included."""
    finish: str
    """Why it ended: `length`, `stop` (a stop string) or `end_of_text` (the model ended the document)."""


@dataclass(frozen=True)
class Completions:
    """What `LanguageModel.complete` returns."""

    completions: tuple[Completion, ...]
    prompt_tokens: int
    first_token_seconds: float
    """From the call to the first token."""
    seconds: float


class LanguageModel:
    """A model that reads and writes text.

    Args:
        model: tokens (B, T) int64 -> logits (B, T, V).
        tokenizer: the one it was trained with.
        origin: where it came from, for messages.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, origin: Path | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.origin = origin

    @property
    def config(self) -> GPTConfig:
        """The shape of the model."""
        return self.model.config

    def generate(
        self,
        prompt: str | None,
        *,
        max_new_tokens: int = 100,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        overflow: str = "error",
    ) -> str:
        """Continue `prompt` and return the new text.

        Args:
            prompt: text to continue; None begins a new document.
            max_new_tokens: the most tokens to add.
            temperature: 0 always takes the likeliest token.
            top_k: keep only the k likeliest tokens.
            top_p: keep the likeliest tokens that hold this probability together.
            stop: strings that end the text where they first appear.
            seed: the same seed gives the same text.
            overflow: `error` or `slide`, for text beyond the context.

        Raises:
            RequestError: for an empty prompt, a setting without meaning, or text beyond the context.
        """
        request = Request(max_new_tokens, Sampling(temperature, top_k, top_p), seed, overflow)
        return "".join(self.stream_request(prompt, request, stop))

    def stream(
        self,
        prompt: str | None,
        *,
        max_new_tokens: int = 100,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        overflow: str = "error",
    ) -> Iterator[str]:
        """Like `generate`, piece by piece, as soon as each piece is certain.

        No piece holds half a character, and none holds the beginning of a stop string that then came.
        """
        request = Request(max_new_tokens, Sampling(temperature, top_k, top_p), seed, overflow)
        return self.stream_request(prompt, request, stop)

    def stream_request(
        self, prompt: str | None, request: Request, stop: str | Sequence[str] = ()
    ) -> Iterator[str]:
        """`stream`, with the settings gathered in a `Request`."""
        ids = torch.tensor([self.prompt_ids(prompt)])  # (1, T)
        row = Row(self.tokenizer, _stop_strings(stop))
        for chosen in continuations(self.model, ids, request, self.tokenizer.vocab_size):
            if piece := row.push(int(chosen[0])):
                yield piece
            if row.finish:
                return
        if piece := row.close():
            yield piece

    def complete(
        self, prompt: str | None, request: Request, n: int = 1, stop: str | Sequence[str] = ()
    ) -> Completions:
        """Continue one prompt `n` times, together.

        Raises:
            RequestError: as `generate`, or for `n` below 1.
        """
        require_number("n", n, whole=True)
        if n < 1:
            raise RequestError(f"n is {n}; it must be at least 1.", "Ask for one text or more.")
        began = time.perf_counter()
        ids = self.prompt_ids(prompt)
        rows = [Row(self.tokenizer, _stop_strings(stop)) for _ in range(n)]
        first, prompts = 0.0, torch.tensor([ids] * n)  # (n, T)
        for chosen in continuations(self.model, prompts, request, self.tokenizer.vocab_size):
            first = first or time.perf_counter() - began
            for row, token in zip(rows, chosen.tolist(), strict=True):
                row.push(token)
            if all(row.finish for row in rows):
                break
        for row in rows:
            row.close()
        done = tuple(Completion(row.text, tuple(row.ids), row.finish) for row in rows)
        return Completions(done, len(ids), first, time.perf_counter() - began)

    def prompt_ids(self, prompt: str | None) -> list[int]:
        """The tokens to begin from; None stands for the start of a document.

        Raises:
            RequestError: for an empty prompt, or one with half of a character in it.
        """
        if prompt is None:
            return [self.tokenizer.end_of_text]
        if not isinstance(prompt, str):
            raise RequestError(f"The prompt is a {type(prompt).__name__}; it must be text.", "Pass a str.")
        if not prompt:
            raise RequestError(
                "The prompt is empty, so there is nothing to continue.",
                "Give some text, or --new-document (in Python: None) to let the model begin by itself.",
            )
        if half := _LONE_SURROGATE.search(prompt):
            raise RequestError(
                f"The prompt has a lone surrogate U+{ord(half.group()):04X} at character {half.start() + 1}: half of "
                "a character, which is no text.",
                "Pass the text as UTF-8.",
            )
        return self.tokenizer.encode(prompt)


_LONE_SURROGATE = re.compile(r"[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


class Row:
    """One text being written: what is certain of it, and whether it has ended."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.finish = ""
        self._end_of_text = tokenizer.end_of_text
        self._stop = stop
        self._stream = TextStream(tokenizer)
        self._held = ""  # may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Add a token; returns the text that is certain now. After the end it changes nothing."""
        if self.finish:
            return ""
        self.ids.append(token)
        if token == self._end_of_text:
            return self._release(self._stream.finish(), "end_of_text")
        return self._release(self._stream.push(token), "")

    def close(self) -> str:
        """End the text for its length; returns what was held back, but not a character cut in half."""
        return "" if self.finish else self._release("", "length")

    def _release(self, new: str, finish: str) -> str:
        held = self._held + new
        # The stop string that is complete first ends the text, however the text is cut into tokens.
        found = [(at + len(s), at) for s in self._stop if (at := held.find(s)) >= 0]
        if found:
            certain, self._held, self.finish = held[: min(found)[1]], "", "stop"
        else:
            keep = 0 if finish else self._possible_stop(held)
            certain, self._held, self.finish = held[: len(held) - keep], held[len(held) - keep :], finish
        self.text += certain
        return certain

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        longest = max((len(s) for s in self._stop), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            if any(s.startswith(text[-length:]) for s in self._stop):
                return length
        return 0


def _stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if any(not isinstance(s, str) for s in strings):
        raise RequestError("A stop string is no text.", "Pass a str, or several.")
    if any(not s for s in strings):
        raise RequestError("A stop string is empty, which would end every text at once.", "Leave it out.")
    return strings
