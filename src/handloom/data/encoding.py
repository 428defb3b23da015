"""Examples become ids, no longer than a row: what is too long is refused, cut or left out, and that is counted.

Knows no batches and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from handloom.data.examples import Conversation, Example, LabeledText, PreferencePair
from handloom.data.omissions import Omissions
from handloom.data.schema import Origin
from handloom.errors import DataError
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import EncodedChat, encode_conversation, encode_generation_prompt

E = TypeVar("E", Conversation, PreferencePair, LabeledText)
T = TypeVar("T")


@dataclass
class ExampleEncoder:
    """Makes texts fit a row, and counts those that did not.

    Args:
        context: tokens that the model reads of a row.
        policy: `error`; `cut`: leave out their end; `skip`: leave out the example.
        omissions: told which were cut or left out.
    """

    context_length: int
    policy: str
    omissions: Omissions = field(default_factory=Omissions)

    def fit(self, texts: Sequence[EncodedChat], origin: Origin, room: int) -> list[EncodedChat] | None:
        """The texts of one example, each at most `room` tokens long; None when it is to be left out.

        Raises:
            DataError: when the policy is `error`, and one is longer.
        """
        longest = max(len(text.ids) for text in texts)
        if longest <= room:
            return list(texts)
        if self.policy == "error":
            raise DataError(
                f"{origin}: {longest:,} tokens, but a row has room for {room:,} (context {self.context_length:,}).",
                "Shorten it, choose a larger --context-length if the model has one, or name a policy: --overlong "
                "truncate leaves "
                "out the end of such examples, --overlong skip leaves them out.",
            )
        self.omissions.add("truncated" if self.policy == "truncate" else "overlong", str(origin))
        return None if self.policy == "skip" else [EncodedChat(t.ids[:room], t.loss_mask[:room]) for t in texts]


def encode_conversations(
    examples: Iterable[Conversation], tokenizer: Tokenizer, fitting: ExampleEncoder
) -> list[tuple[Conversation, EncodedChat]]:
    """Those that are not left out, in ids; the last token is only ever a target.

    Raises:
        DataError: for one that is too long where that is an error, or in which nothing is learned.
    """
    found = _fitted(examples, tokenizer, fitting)
    for example, (text,) in found:
        _require_learned(example, text, fitting)
    return [(example, text) for example, (text,) in found]


def encode_pairs(
    examples: Iterable[PreferencePair], tokenizer: Tokenizer, fitting: ExampleEncoder
) -> list[tuple[PreferencePair, EncodedChat, EncodedChat]]:
    """Those that are not left out, in ids: the preferred answer after its prompt, and the other.

    Raises:
        DataError: as `encode_conversations`, or where cutting makes two answers the same.
    """
    found = _fitted(examples, tokenizer, fitting)
    for example, both in found:
        for text in both:
            _require_learned(example, text, fitting)
        if both[0].ids == both[1].ids:
            raise DataError(
                f"{example.origin}: both answers are the same as far as a row of {fitting.context_length:,} tokens "
                "reaches.",
                "Remove that line, or leave out what is too long: --overlong skip.",
            )
    return [(example, chosen, rejected) for example, (chosen, rejected) in found]


def encode_labeled(
    examples: Iterable[LabeledText], tokenizer: Tokenizer, fitting: ExampleEncoder
) -> list[tuple[LabeledText, list[int]]]:
    """Those that are not left out, in ids.

    Raises:
        DataError: for one that is too long where that is an error.
    """
    return [(example, text.ids) for example, (text,) in _fitted(examples, tokenizer, fitting)]


def in_ids(example: Example, tokenizer: Tokenizer) -> list[EncodedChat]:
    """The texts of one example as they are, whatever their length: one, or both answers of a pair, each after its
    prompt.

    Raises:
        DataError: for a conversation in which nothing is learned.
    """
    if isinstance(example, Conversation):
        text = encode_conversation(tokenizer, example.messages)
        if not any(text.loss_mask):
            raise DataError(
                f'{example.origin}: no token is learned, since every answer has "weight": 0.',
                "Give one the weight 1, or remove that line.",
            )
        return [text]
    if isinstance(example, LabeledText):
        ids = tokenizer.encode(example.text)
        return [EncodedChat(ids, [False] * len(ids))]
    if isinstance(example.prompt, str):
        prompt = tokenizer.encode(example.prompt)
    else:
        prompt = encode_generation_prompt(tokenizer, example.prompt)
    return [_answered(tokenizer, prompt, answer) for answer in (example.chosen, example.rejected)]


def room_for(kind: type[Example], context_length: int) -> int:
    """Tokens that a text may have: where the next token is learned, the last one is only ever a target."""
    return context_length if kind is LabeledText else context_length + 1


def _fitted(examples: Iterable[E], tokenizer: Tokenizer, fitting: ExampleEncoder) -> list[tuple[E, list[EncodedChat]]]:
    found = [
        (
            example,
            fitting.fit(in_ids(example, tokenizer), example.origin, room_for(type(example), fitting.context_length)),
        )
        for example in examples
    ]
    kept = [(example, fitted) for example, fitted in found if fitted is not None]
    if not kept:
        raise DataError(
            f"Every example is longer than a row of {fitting.context_length:,} tokens, so that none is left.",
            "Choose a larger --context-length, or --overlong truncate.",
        )
    return kept


def _answered(tokenizer: Tokenizer, prompt: list[int], answer: str) -> EncodedChat:
    ids = [*tokenizer.encode(answer), tokenizer.eos_token_id]
    return EncodedChat(prompt + ids, [False] * len(prompt) + [True] * len(ids))


def _require_learned(example: Conversation | PreferencePair, text: EncodedChat, fitting: ExampleEncoder) -> None:
    """Raise DataError when nothing of an answer is left by a cut."""
    if not any(text.loss_mask):
        raise DataError(
            f"{example.origin}: what stands before the answer fills the row of {fitting.context_length:,} tokens, "
            "so that "
            "nothing of it is left to learn.",
            "Shorten that, choose a larger --context-length, or leave out what is too long: --overlong skip.",
        )
