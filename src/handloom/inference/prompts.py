"""What a model is asked to continue, in ids: a text, the start of a document, or a conversation.

Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from handloom.errors import RequestError, did_you_mean
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import ROLES, Message, encode_generation_prompt

Prompt = str | list[Any] | tuple[Any, ...] | None
"""A text; a list of messages to answer, each a `Message` or {"role": ..., "content": ...}; None: a new document."""

_LONE_SURROGATE = re.compile(r"[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt, template: str | None) -> list[int]:
    """The tokens to begin from.

    Args:
        tokenizer: of the model.
        prompt: what to continue, or to answer.
        template: that the model learned conversations in, ours or one in Jinja; None if it learned none.

    Raises:
        RequestError: for an empty prompt, one with half of a character in it, or messages that cannot be answered.
    """
    if prompt is None:
        return [tokenizer.eos_token_id]
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError(
                "The prompt is empty, so there is nothing to continue.",
                "Give some text, or --new-document (in Python: None) to let the model begin by itself.",
            )
        _require_text(prompt, "The prompt")
        return tokenizer.encode(prompt)
    if not isinstance(prompt, list | tuple):
        raise RequestError(
            f"The prompt is a {type(prompt).__name__}; it must be text, or a list of messages.", "Pass a str."
        )
    if template is None:
        raise RequestError(
            "The model learned no conversations, so it cannot answer messages.",
            "Pass text to continue, or tune a model with handloom finetune --task sft.",
        )
    return encode_generation_prompt(tokenizer, messages_of(prompt), template)


def messages_of(prompt: Sequence[Any]) -> list[Message]:
    """Messages that can be answered.

    Raises:
        RequestError: when there are none, one is no message, or the last is not the user's.
    """
    messages = [_message(each, f"Message {number}") for number, each in enumerate(prompt, 1)]
    if not messages or messages[-1].role != "user":
        raise RequestError(
            "The last message is not the user's, so there is nothing to answer.",
            'End with {"role": "user", "content": "..."}.',
        )
    return messages


def _message(given: Any, what: str) -> Message:
    if not isinstance(given, Message):
        if not isinstance(given, Mapping) or not {"role", "content"} <= given.keys():
            raise RequestError(
                f"{what} has no role and content.", 'Pass {"role": "user", "content": "..."}, or a Message.'
            )
        given = Message(given["role"], given["content"])
    if given.role not in ROLES:
        raise RequestError(
            f"{what} has the unknown role {given.role!r}.",
            f"{did_you_mean(str(given.role), ROLES)} The roles are {', '.join(ROLES)}.".strip(),
        )
    if not isinstance(given.content, str):
        raise RequestError(f"{what} has a content that is no text.", "Pass a str.")
    if given.role != "assistant" and not given.content.strip():
        raise RequestError(f"{what} is empty.", "Write something in it, or leave it out.")
    _require_text(given.content, what)
    return given


def _require_text(text: str, what: str) -> None:
    if half := _LONE_SURROGATE.search(text):
        raise RequestError(
            f"{what} has a lone surrogate U+{ord(half.group()):04X} at character {half.start() + 1}: half of a "
            "character, which is no text.",
            "Pass the text as UTF-8.",
        )
