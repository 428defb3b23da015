"""What a model continues, in ids: a text, the start of a document, or messages. Knows no model."""

from __future__ import annotations

import re
from typing import Any

from handloom.errors import RequestError
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import MessageParser, encode_generation_prompt
from handloom.values import kind_of

Prompt = str | list[Any] | tuple[Any, ...] | None
"""A text; a list of messages to answer, each a `Message` or {"role": ..., "content": ...}; None: a new document."""

_LONE_SURROGATE = re.compile(r"[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt, template: str | None) -> list[int]:
    """The tokens to begin from; `template` is the model's chat template, ours or one in Jinja, if it has one.

    Raises:
        RequestError: for an empty prompt, one with half of a character in it, or messages that cannot be answered.
    """
    if prompt is None:
        return [tokenizer.eos_token_id]
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError(
                "The prompt is empty, so there is nothing to continue.",
                "Give some text, or `new_document=true` (in Python: None) to let the model begin by itself.",
            )
        return tokenizer.encode(_text(prompt, "The prompt"))
    if not isinstance(prompt, list | tuple):
        raise RequestError(
            f"The prompt is a {type(prompt).__name__}; it must be text, or a list of messages.", "Pass a str."
        )
    if template is None:
        raise RequestError(
            "The model does not have a chat template, so it cannot answer messages.",
            "Pass text to continue, or a model that was tuned on conversations (`task=sft`).",
        )
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
    return encode_generation_prompt(tokenizer, messages, template)


def _text(value: Any, what: str) -> str:
    """A text without half a character in it."""
    if not isinstance(value, str):
        raise RequestError(f"{what} is {kind_of(value)}, not a string.", "Pass a str.")
    if half := _LONE_SURROGATE.search(value):
        raise RequestError(
            f"{what} contains a lone surrogate U+{ord(half.group()):04X} at character {half.start() + 1}: half of a "
            "character, which is not text.",
            "Pass the text as UTF-8.",
        )
    return value
