"""One request while its text is generated: ids, settings, random numbers, stop strings and a streaming detokenizer.

Knows no model.
"""

from __future__ import annotations

import copy
from collections import abc
from functools import cached_property
from typing import Literal

import numpy as np

from handloom.errors import RequestError
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.prompt_lookup import NgramIndex
from handloom.tokenizer.base import StreamingDetokenizer, Tokenizer

FinishReason = Literal["stop", "length", "cancel", "error"]
"""stop: the model ended the text, or a stop string appeared; length: max_new_tokens is reached."""


class Sequence:
    """A prompt and the tokens generated for it.

    `row` is its number among texts of one seed: it draws from the Philox stream (seed, row). Without a tokenizer it
    has no text.
    """

    def __init__(
        self, prompt: abc.Sequence[int], config: GenerationConfig, tokenizer: Tokenizer | None = None, row: int = 0
    ) -> None:
        if config.stop and tokenizer is None:
            raise RequestError("Stop strings need a tokenizer.", "Pass one, or leave out `stop`.", setting="stop")
        self.ids = list(prompt)
        self.prompt_tokens = len(prompt)
        self.config = config
        self.text = ""
        """The new text that is certain: without half a character, or what may begin a stop string."""
        self.finish_reason: FinishReason | None = None
        self._row = row
        self._detokenizer = None if tokenizer is None else StreamingDetokenizer(tokenizer)
        self._held = ""  # may be the beginning of a stop string

    @property
    def new_ids(self) -> list[int]:
        """The generated tokens, that of the end of text and those of a stop string included."""
        return self.ids[self.prompt_tokens :]

    @cached_property
    def logits_key(self) -> tuple[object, ...]:
        """As of its config."""
        return self.config.logits_key

    @cached_property
    def ngrams(self) -> NgramIndex:
        """Of its ids."""
        return NgramIndex(self.ids)

    @cached_property
    def _random(self) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array([self.config.seed, self._row], dtype=np.uint64)))

    def uniform(self) -> float:
        """Its next random number, in [0, 1)."""
        return self._random.random()

    def add_token(self, token: int) -> str:
        """Append a token; returns the text that has become certain. After the end it changes nothing."""
        if self.finish_reason is not None:
            return ""
        self.ids.append(token)
        if token in self.config.eos_token_ids:
            return self._release("" if self._detokenizer is None else self._detokenizer.finalize(), "stop")
        text = self._release("" if self._detokenizer is None else self._detokenizer.add_token(token), None)
        return text + (self.finalize() if len(self.ids) - self.prompt_tokens == self.config.max_new_tokens else "")

    def finalize(self, reason: FinishReason = "length") -> str:
        """End the text; returns what was held back as a possible stop string, but not half a character."""
        return "" if self.finish_reason is not None else self._release("", reason)

    def after(self, token: int) -> Sequence:
        """A copy with one more token, without the ids and the text before it: takes no longer for a longer text."""
        grown = copy.copy(self)
        grown.ids, grown.prompt_tokens, grown.text = [], 0, ""
        grown._detokenizer = None if self._detokenizer is None else self._detokenizer.copy()
        grown.add_token(token)
        return grown

    def _release(self, new: str, reason: FinishReason | None) -> str:
        held = self._held + new
        # The stop string that is complete first ends the text, however the text is cut into tokens.
        found = [(at + len(stop), at) for stop in self.config.stop if (at := held.find(stop)) >= 0]
        if found:
            end, rest, self.finish_reason = min(found)[1], len(held), "stop"
        else:
            end = rest = len(held) - (0 if reason else self._possible_stop(held))
            self.finish_reason = reason
        self._held = held[rest:]
        self.text += held[:end]
        return held[:end]

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        longest = max((len(stop) for stop in self.config.stop), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.config.stop):
                return length
        return 0
