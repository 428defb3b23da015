"""Examples become ids, no longer than a row: what is too long is refused, truncated or left out, and that is counted.

Knows no batches and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from handloom.data.examples import Conversation, Example, LabeledText
from handloom.data.omissions import Omissions
from handloom.data.text_io import Origin
from handloom.errors import DataError
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import EncodedChat, encode_conversation, encode_generation_prompt

E = TypeVar("E", bound=Example)


@dataclass
class ExampleEncoder:
    """Makes texts fit a row of `context_length` tokens, and counts those that did not.

    `policy` is `error`, `truncate` (their end is left out) or `skip` (the example is).
    """

    context_length: int
    policy: str
    omissions: Omissions = field(default_factory=Omissions)

    def fit(self, texts: Sequence[EncodedChat], origin: Origin, room: int) -> list[EncodedChat] | None:
        """The texts of one example, each at most `room` tokens long; None when it is to be left out.

        Raises DataError when the policy is `error`, and one is longer.
        """
        longest = max(len(text.ids) for text in texts)
        if longest <= room:
            return list(texts)
        if self.policy == "error":
            raise DataError(
                f"{origin}: {longest:,} tokens, but a row has room for {room:,} (context {self.context_length:,}).",
                "Shorten it, raise `context_length` if the model has a longer one, or use `overlong=truncate`, which "
                "leaves out the end of such examples, or `overlong=skip`, which leaves them out.",
                setting="overlong",
            )
        self.omissions.add("truncated" if self.policy == "truncate" else "overlong", str(origin))
        return None if self.policy == "skip" else [EncodedChat(t.ids[:room], t.loss_mask[:room]) for t in texts]


def encode_examples(
    examples: Iterable[E], tokenizer: Tokenizer, encoder: ExampleEncoder
) -> list[tuple[E, list[EncodedChat]]]:
    """Those that are not left out, with their texts as `in_ids` has them; the last token is only ever a target.

    Raises DataError for one that is too long where that is an error, or without a target, for answers that are the same
    when truncated, and when no example is left.
    """
    length = encoder.context_length
    kept = []
    for example in examples:
        texts = encoder.fit(in_ids(example, tokenizer), example.origin, room_for(example, length))
        if texts is not None:
            kept.append((example, texts))
    if not kept:
        raise DataError(
            f"Every example is longer than a row of {length:,} tokens, so that none is left.",
            "Raise `context_length`, or use `overlong=truncate`.",
        )
    for example, texts in kept:
        if not isinstance(example, LabeledText) and not all(any(text.loss_mask) for text in texts):
            raise DataError(
                f"{example.origin}: what stands before the answer fills the row of {length:,} tokens, so that nothing "
                "of it is left to learn.",
                "Shorten that, raise `context_length`, or leave out what is too long: `overlong=skip`.",
            )
        if len(texts) == 2 and texts[0].ids == texts[1].ids:
            raise DataError(
                f"{example.origin}: both answers are the same within a row of {length:,} tokens.",
                "Remove that line, or leave out what is too long: `overlong=skip`.",
            )
    return kept


def in_ids(example: Example, tokenizer: Tokenizer) -> list[EncodedChat]:
    """The texts of one example, whatever their length: one, or both answers of a pair, each after its prompt.

    Raises DataError for a conversation without a target.
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
    answers = ([*tokenizer.encode(answer), tokenizer.eos_token_id] for answer in (example.chosen, example.rejected))
    return [EncodedChat(prompt + ids, [False] * len(prompt) + [True] * len(ids)) for ids in answers]


def room_for(example: Example, context_length: int) -> int:
    """Tokens that a text may have: where the next token is learned, the last one is only ever a target."""
    return context_length if isinstance(example, LabeledText) else context_length + 1
