"""A text cut where its tokens are, with the surprise at each. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.detokenizer import StreamingDetokenizer


@dataclass(frozen=True)
class Span:
    """A token as text; or several that only together are whole characters."""

    text: str
    """Empty for the end of text."""
    nats: float
    """The surprise, of all of its tokens together."""
    start: int
    """Where it begins in the text, in characters."""


def spans(tokenizer: Tokenizer, ids: Sequence[int], nats: Sequence[float]) -> tuple[Span, ...]:
    """The spans of a text; what is left of a character that was cut in half is left out.

    Args:
        tokenizer: whose ids they are.
        ids: N ids.
        nats: the surprise at each of them.
    """
    stream = StreamingDetokenizer(tokenizer)
    made: list[Span] = []
    held, at = 0.0, 0
    for token, surprise in zip(ids, nats, strict=True):
        held += surprise
        text = "" if token == tokenizer.eos_token_id else stream.add_token(token)
        if text or token == tokenizer.eos_token_id:
            made.append(Span(text, held, at))
            held, at = 0.0, at + len(text)
    return tuple(made)
