"""A text that a person and a model write in turn: what was said, what was answered, and how to take it back.

A base model knows no roles. It is given all of the text so far and goes on. Knows no terminal.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from handloom.errors import RequestError
from handloom.inference.generation_config import GenerationConfig, SamplingParams, setting_names
from handloom.inference.language_model import LanguageModel
from handloom.inference.sequence import typed_stop


@dataclass
class Turn:
    """What the person wrote, with the line break before it, and how the model went on."""

    said: str
    answer: str = ""


class TextSession:
    """Turns that make up one continuing text.

    Args:
        lm: the model.
        request: how it goes on; text beyond the context slides, whatever is asked.
        stop: strings that end an answer.
    """

    def __init__(self, lm: LanguageModel, request: GenerationConfig, stop: tuple[str, ...] = ()) -> None:
        self.turns: list[Turn] = []
        self.stop = stop
        self.request = request.changed(overflow="slide")
        lm.check(None, self.request)
        self._lm = lm
        self._answers = 0

    @property
    def text(self) -> str:
        """All that was written, by both."""
        return "".join(turn.said + turn.answer for turn in self.turns)

    def say(self, line: str, halted: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Add a line, and yield the answer piece by piece.

        The line begins a new one in the text. An empty line adds nothing: the model goes on where it is, and
        at the very beginning opens a text of its own.

        Args:
            line: what the person wrote.
            halted: asked after each token; once it says yes, the answer ends there.
        """
        text = self.text
        break_before = "\n" if line and text and not text.endswith("\n") else ""
        self.turns.append(Turn(break_before + line))
        return self._answer(halted)

    def retry(self, halted: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Write the last answer anew, with other random numbers.

        Raises:
            RequestError: when there is none.
        """
        self._last().answer = ""
        return self._answer(halted)

    def edit(self, line: str, halted: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Replace what the person wrote last, and let the model answer that.

        Raises:
            RequestError: when nothing was written yet.
        """
        self._last()
        self.turns.pop()
        return self.say(line, halted)

    def undo(self) -> None:
        """Take back the last turn, of both.

        Raises:
            RequestError: when there is none.
        """
        self._last()
        self.turns.pop()

    def clear(self) -> None:
        """Take back all turns; the settings stay."""
        self.turns = []

    @contextmanager
    def unchanged_by_errors(self) -> Iterator[None]:
        """If anything goes wrong inside, turns and settings are as they were before. Ctrl-C keeps what is written."""
        before = {**vars(self), "turns": [dataclasses.replace(turn) for turn in self.turns]}
        try:
            yield
        except Exception:
            vars(self).update(before)
            raise

    def set(self, name: str, value: str) -> None:
        """Change a setting of `GenerationConfig` or `SamplingParams` from here on.

        Args:
            name: with `-` or `_` between its words.
            value: as typed; `off` for what it is when nothing is said.

        Raises:
            RequestError: for a setting that does not exist, or a value that has no meaning; nothing is changed then.
        """
        name = name.replace("-", "_")
        if name == "stop":
            self.stop = () if value == "off" else (*self.stop, typed_stop(value))
            return
        if name in FIXED:
            raise RequestError(f"{name} cannot be set in a chat.", "/help lists what can.")
        request = self.request.changed(**{name: _parsed(name, value)})
        self._lm.check(None, request)
        self.request = request

    def _answer(self, halted: Callable[[], bool]) -> Iterator[str]:
        turn, text = self._last(), self.text
        seed = (self.request.seed + self._answers) % 2**64
        self._answers += 1
        request = dataclasses.replace(self.request, seed=seed)
        for piece in self._lm.stream_request(text or None, request, self.stop, halted=halted):
            turn.answer += piece
            yield piece

    def _last(self) -> Turn:
        if not self.turns:
            raise RequestError("Nothing has been written yet.", "Write something first.")
        return self.turns[-1]


FIXED = ("overflow", "num_beams", "length_penalty", "logprobs", "echo")
"""Settings that have no meaning in a conversation."""


def settable() -> dict[str, Any]:
    """Settings that a conversation can change, each with its default."""
    found = {**_defaults(SamplingParams), **_defaults(GenerationConfig)}
    return {name: default for name, default in found.items() if name not in FIXED}


def _defaults(kind: type) -> dict[str, Any]:
    names = setting_names(kind)
    return {field.name: field.default for field in dataclasses.fields(kind) if field.name in names}


def _parsed(name: str, value: str) -> Any:
    """A value as typed, in the kind that the setting wants; what does not fit is left to its own check."""
    defaults = settable()
    if value == "off" and name in defaults:
        return defaults[name]
    kinds = {**typing.get_type_hints(SamplingParams), **typing.get_type_hints(GenerationConfig)}
    wanted = typing.get_args(kinds.get(name, str)) or (kinds.get(name, str),)
    if bool in wanted:
        return {"on": True}.get(value, value)
    if name in ("logit_bias", "bad_words"):
        return tuple(value.split())
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
