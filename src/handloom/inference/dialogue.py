"""A conversation with a model that learned conversations: each side speaks in turn, and answers end by themselves.

Knows no terminal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from handloom.errors import RequestError
from handloom.inference.conversation import TextSession, Turn
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.chat import CHAT_TEMPLATE, Message, encode_generation_prompt, header_of


class ChatSession(TextSession):
    """Turns of a user and an assistant.

    The model sees as many of the last turns as leave its answer room in the context: `max_new_tokens`, but no more
    than half of the context. A message of the system always stays.

    Args:
        lm: a model with a template.
        request: how it answers.
        stop: strings that end an answer.
        system: what the model is told before all turns.
        on_note: told when turns are out of the model's sight.
    """

    def __init__(
        self,
        lm: LanguageModel,
        request: GenerationConfig,
        stop: tuple[str, ...] = (),
        system: str | None = None,
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        super().__init__(lm, request, stop)
        self.system = system
        self._on_note = on_note
        self._forgotten = 0

    @property
    def text(self) -> str:
        """All that was said, by both."""
        parts = [header_of("system") + self.system] if self.system else []
        for turn in self.turns:
            parts += [header_of("user") + turn.said, header_of("assistant") + turn.answer]
        return "\n\n".join(parts)

    def say(self, line: str, halted: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Say something, and yield the answer piece by piece.

        Args:
            line: what the person wrote.
            halted: asked after each token; once it says yes, the answer ends there.

        Raises:
            RequestError: for an empty line, or one that does not fit the context even alone.
        """
        turn = self._turn(line)
        self.turns.append(turn)
        return self._answer(halted)

    def edit(self, line: str, halted: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Replace what the person said last, and let the model answer that.

        Raises:
            RequestError: as `say`, or when nothing was said yet; then all stays as it was.
        """
        self._last()
        turn = self._turn(line)
        self.turns[-1] = turn
        return self._answer(halted)

    def tell(self, system: str | None) -> None:
        """Change what the model is told before all turns; None: nothing.

        Raises:
            RequestError: when it leaves no room for anything else.
        """
        if system is not None and len(self._encoded([Turn("-")], system)) > self._lm.config.context_length:
            raise RequestError(
                f"The system's message does not fit the model's context of {self._lm.config.context_length:,} tokens.",
                "Shorten it.",
            )
        self.system = system

    def _turn(self, line: str) -> Turn:
        """A turn that begins with that line, if the model can read it."""
        if not line.strip():
            raise RequestError("An empty line asks nothing.", "Write something, or /retry for another answer.")
        turn = Turn(line)
        tokens, context_length = len(self._encoded([turn], self.system)), self._lm.config.context_length
        if tokens > context_length:
            raise RequestError(
                f"This message and what stands around it have {tokens:,} tokens, and the model looks at "
                f"{context_length:,}.",
                "Shorten it.",
            )
        return turn

    def _answer(self, halted: Callable[[], bool]) -> Iterator[str]:
        turn, seen = self._last(), self._seen()
        seed = (self.request.seed + self._answers) % 2**64
        self._answers += 1
        room = self._lm.config.context_length - len(self._encoded(seen, self.system)) + 1
        most = min(self.request.max_new_tokens, room)
        least = min(self.request.min_new_tokens, most)
        request = dataclasses.replace(
            self.request, seed=seed, overflow="error", max_new_tokens=most, min_new_tokens=least
        )
        messages = _messages(seen, self.system)
        for piece in self._lm.stream_request(messages, request, self.stop, halted=halted):
            turn.answer += piece
            yield piece

    def _seen(self) -> list[Turn]:
        """The last turns that leave the answer its room; the very last always."""
        context_length = self._lm.config.context_length
        wanted = min(self.request.max_new_tokens, context_length // 2)
        seen = list(self.turns)
        while len(seen) > 1 and len(self._encoded(seen, self.system)) + wanted - 1 > context_length:
            seen.pop(0)
        forgotten = len(self.turns) - len(seen)
        if forgotten > self._forgotten:
            turns = "The first turn is" if forgotten == 1 else f"The first {forgotten:,} turns are"
            self._on_note(f"{turns} out of the model's sight: its context is {context_length:,} tokens.")
        self._forgotten = forgotten
        return seen

    def _encoded(self, turns: list[Turn], system: str | None) -> list[int]:
        return encode_generation_prompt(
            self._lm.tokenizer, _messages(turns, system), self._lm.template or CHAT_TEMPLATE
        )


def _messages(turns: list[Turn], system: str | None) -> list[Message]:
    """What is to be answered: the last turn, after all others."""
    messages = [Message("system", system)] if system else []
    for turn in turns[:-1]:
        messages += [Message("user", turn.said), Message("assistant", turn.answer)]
    return [*messages, Message("user", turns[-1].said)]
