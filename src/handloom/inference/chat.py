"""Sessions in which a person and a model write in turn. Knows no terminal.

A base model has no roles: it continues all of the text (`TextSession`). A model with a chat template answers messages
(`ChatSession`).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from handloom.errors import RequestError
from handloom.inference.completions import GenerationStats
from handloom.inference.engine import TokenEvent
from handloom.inference.generation_config import NOT_IN_CHAT, GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.inference.prompts import Prompt
from handloom.settings import setting_fields
from handloom.tokenizer.chat import CHAT_TEMPLATE, Message, encode_generation_prompt, header_of

Events = Iterator[TokenEvent]


@dataclass
class Turn:
    """What the user wrote (in a text, with the line break before it), and what the model wrote after it."""

    user: str
    assistant: str = ""


class TextSession:
    """Turns that make up one continuing text; text beyond the context slides."""

    has_roles: ClassVar[bool] = False

    def __init__(self, lm: LanguageModel, config: GenerationConfig) -> None:
        self.turns: list[Turn] = []
        self.config = config.changed(overflow="slide")
        lm.check(None, self.config)
        self._lm = lm
        self._answers = 0
        self.stats = GenerationStats()
        """Of the last answer."""

    @property
    def text(self) -> str:
        """All that was written, by both."""
        return "".join(turn.user + turn.assistant for turn in self.turns)

    def send(self, line: str, should_stop: Callable[[], bool] = lambda: False) -> Events:
        """Add a line, and stream the answer; once `should_stop` returns True after a token, the answer ends there.

        The line begins a new one in the text. An empty line adds nothing: the model goes on where it is, and
        at the very beginning opens a text of its own.
        """
        self.turns.append(self._turn(line, self.text))
        return self._answer(should_stop)

    def retry(self, should_stop: Callable[[], bool] = lambda: False) -> Events:
        """Generate the last answer again, with other random numbers; raises RequestError before the first turn."""
        self._last().assistant = ""
        return self._answer(should_stop)

    def edit(self, line: str, should_stop: Callable[[], bool] = lambda: False) -> Events:
        """Replace what the user wrote last, and stream the answer; raises RequestError before the first turn."""
        last = self._last()
        before = self.text[: -len(last.user + last.assistant) or None]
        self.turns[-1] = self._turn(line, before)
        return self._answer(should_stop)

    def set_system(self, system: str | None) -> None:
        """Raise RequestError: a base model takes no system message."""
        raise RequestError(
            "This model does not have a chat template, so it takes no system message.",
            "Write what it is to go on from as a line.",
            setting="system",
        )

    def undo(self) -> None:
        """Remove the last turn; raises RequestError before the first."""
        self._last()
        self.turns.pop()

    def clear(self) -> None:
        """Remove all turns; the settings stay."""
        self.turns = []

    @contextmanager
    def unchanged_by_errors(self) -> Iterator[None]:
        """After an error inside, turns and settings are as they were before. Ctrl-C keeps what is written."""
        before = {**vars(self), "turns": [dataclasses.replace(turn) for turn in self.turns]}
        try:
            yield
        except Exception:
            vars(self).update(before)
            raise

    def set(self, name: str, value: str) -> None:
        """Change a setting of `GenerationConfig` from here on; `stop` adds a stop string.

        `name` has `-` or `_` between its words; `value` is as typed, with `off` for the default.

        Raises:
            RequestError: for a setting that does not exist, or a value that is not allowed; nothing is changed then.
        """
        name = name.replace("-", "_")
        if name in NOT_IN_CHAT:
            raise RequestError(f"{name} cannot be set in a chat.", "/help lists what can.")
        parsed = _parsed(name, value)
        if name == "stop" and value != "off":
            parsed = (*self.config.stop, value)
        config = self.config.changed(**{name: parsed})
        self._lm.check(None, config)
        self.config = config

    def _turn(self, line: str, before: str) -> Turn:
        """A turn that begins with that line, after the text `before`."""
        return Turn(("\n" if line and before and not before.endswith("\n") else "") + line)

    def _request(self) -> tuple[Prompt, dict[str, Any]]:
        """What the model is given to answer the last turn, and the settings that this needs."""
        return self.text or None, {}

    def _answer(self, should_stop: Callable[[], bool]) -> Events:
        turn = self._last()
        prompt, settings = self._request()
        seed = (self.config.seed + self._answers) % 2**64
        self._answers += 1
        config = self.config.changed(**settings, seed=seed)
        self.stats = GenerationStats()
        for event in self._lm.stream(prompt, config, should_stop=should_stop, stats=self.stats):
            turn.assistant += event.text
            yield event

    def _last(self) -> Turn:
        if not self.turns:
            raise RequestError("Nothing has been written yet.", "Write something first.")
        return self.turns[-1]


class ChatSession(TextSession):
    """Turns of a user and an assistant, for a model with a chat template.

    The model reads as many of the last turns as leave its answer room in the context: `max_new_tokens`, but no more
    than half of the context; `on_note` is called when turns fall out of it. The system message always stays.
    """

    has_roles = True

    def __init__(
        self, lm: LanguageModel, config: GenerationConfig, on_note: Callable[[str], None] = lambda note: None
    ) -> None:
        super().__init__(lm, config)
        self.system: str | None = None
        self._on_note = on_note
        self._dropped = 0

    @property
    def text(self) -> str:
        """All messages, each below the name of its role."""
        parts = [header_of("system") + self.system] if self.system else []
        for turn in self.turns:
            parts += [header_of("user") + turn.user, header_of("assistant") + turn.assistant]
        return "\n\n".join(parts)

    def set_system(self, system: str | None) -> None:
        """Change the system message, which comes before all turns; None: without one.

        Raises:
            RequestError: when it leaves no room for anything else.
        """
        context_length = self._lm.config.context_length
        if system is not None and len(self._encoded([Turn("-")], system)) > context_length:
            raise RequestError(
                f"The system message does not fit the model's context of {context_length:,} tokens.", "Shorten it."
            )
        self.system = system

    def _turn(self, line: str, before: str) -> Turn:
        if not line.strip():
            raise RequestError("An empty line asks nothing.", "Write something, or /retry for another answer.")
        turn = Turn(line)
        tokens, context_length = (len(self._encoded([turn], self.system)), self._lm.config.context_length)
        if tokens > context_length:
            raise RequestError(
                f"This message and what stands around it have {tokens:,} tokens, and the model's context is "
                f"{context_length:,}.",
                "Shorten it.",
            )
        return turn

    def _request(self) -> tuple[Prompt, dict[str, Any]]:
        turns = self._in_context()
        room = self._lm.config.context_length - len(self._encoded(turns, self.system)) + 1
        most = min(self.config.max_new_tokens, room)
        least = min(self.config.min_new_tokens, most)
        return _messages(turns, self.system), {"overflow": "error", "max_new_tokens": most, "min_new_tokens": least}

    def _in_context(self) -> list[Turn]:
        """The last turns that leave the answer its room; the very last always."""
        context_length = self._lm.config.context_length
        wanted = min(self.config.max_new_tokens, context_length // 2)
        turns = list(self.turns)
        while len(turns) > 1 and len(self._encoded(turns, self.system)) + wanted - 1 > context_length:
            turns.pop(0)
        dropped = len(self.turns) - len(turns)
        if dropped > self._dropped:
            first = "The first turn is" if dropped == 1 else f"The first {dropped:,} turns are"
            self._on_note(f"{first} out of the model's context of {context_length:,} tokens.")
        self._dropped = dropped
        return turns

    def _encoded(self, turns: list[Turn], system: str | None) -> list[int]:
        return encode_generation_prompt(
            self._lm.tokenizer, _messages(turns, system), self._lm.template or CHAT_TEMPLATE
        )


def _messages(turns: list[Turn], system: str | None) -> list[Message]:
    """What is to be answered: the last turn, after all others."""
    messages = [Message("system", system)] if system else []
    for turn in turns[:-1]:
        messages += [Message("user", turn.user), Message("assistant", turn.assistant)]
    return [*messages, Message("user", turns[-1].user)]


def settable() -> dict[str, Any]:
    """Settings that a chat can change, each with its default."""
    return {field.name: field.default for field in setting_fields(GenerationConfig) if field.name not in NOT_IN_CHAT}


def _parsed(name: str, value: str) -> Any:
    """A value as typed, of the setting's type; what does not fit is left to the setting's own check."""
    defaults = settable()
    if value == "off" and name in defaults:
        return defaults[name]
    hint = typing.get_type_hints(GenerationConfig).get(name, str)
    kinds = typing.get_args(hint) or (hint,)
    if bool in kinds:
        return {"on": True}.get(value, value)
    if name in ("logit_bias", "bad_words"):
        return tuple(value.split())
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
