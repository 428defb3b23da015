"""What a model is asked to continue, in ids: a text, the start of a document, or a conversation.

Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from handloom.errors import RequestError
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import Message, MessageParser, encode_generation_prompt
from handloom.values import kind_of

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
        RequestError: when there are none, one is not a message, or the last is not the user's.
    """
    parser = MessageParser(RequestError, _text)
    messages = [parser.parse(each, f"Message {number}") for number, each in enumerate(prompt, 1)]
    for number, message in enumerate(messages, 1):
        if message.role != "assistant" and not message.content.strip():
            raise RequestError(f"Message {number} is empty.", "Write something in it, or leave it out.")
    if not messages or messages[-1].role != "user":
        raise RequestError(
            "The last message is not the user's, so there is nothing to answer.",
            'End with {"role": "user", "content": "..."}.',
        )
    return messages


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{what} is {kind_of(value)}, not a string.", "Pass a str.")
    _require_text(value, what)
    return value


def _require_text(text: str, what: str) -> None:
    if half := _LONE_SURROGATE.search(text):
        raise RequestError(
            f"{what} has a lone surrogate U+{ord(half.group()):04X} at character {half.start() + 1}: half of a "
            "character, which is no text.",
            "Pass the text as UTF-8.",
        )
