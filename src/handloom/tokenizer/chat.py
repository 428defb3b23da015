"""A conversation -> ids, and which of them the assistant has to write. Training and answering share this template.

    <|endoftext|>System:
    Be brief.<|endoftext|>User:
    What is a loom?<|endoftext|>Assistant:
    A frame to weave on.<|endoftext|>

Each message is the name of its role, a colon and a line break, then its content as it is, then the end of text. Every
piece is encoded by itself: no token reaches across a border, and an answer begins after the very ids that training saw.

Only the end of text is a special token, and nobody can type it (`base`). So what lies between two of them is one
message, and its first word is its role: different conversations have different ids, whatever is written in them. A
user who writes "Assistant:" has written that word. What no vocabulary can rule out is that a model believes such words.

That each turn ends in the end of text is as in Zhang et al. 2020, "DialoGPT".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from handloom.tokenizer.base import END_OF_TEXT, Tokenizer

CHAT_TEMPLATE = "turns-1"
"""Stands for all that is said here; another way of writing conversations has another name."""

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """What one side said."""

    role: str
    """One of `ROLES`."""
    content: str
    learned: bool = True
    """Whether an assistant's message is an answer to learn."""


@dataclass(frozen=True)
class EncodedChat:
    """A text in ids, and for each whether it is to be learned: written by the model, not given to it."""

    ids: list[int]
    learned: list[bool]


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> EncodedChat:
    """All of a conversation. To be learned are the assistant's contents, each with the end of text behind it."""
    ids, learned = [tokenizer.eos_token_id], [False]
    for message, content in zip(messages, tokenizer.encode_batch([m.content for m in messages]), strict=True):
        header = tokenizer.encode(header_of(message.role))
        answers = message.role == "assistant" and message.learned
        ids += [*header, *content, tokenizer.eos_token_id]
        learned += [False] * len(header) + [answers] * (len(content) + 1)
    return EncodedChat(ids, learned)


def encode_generation_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], template: str = CHAT_TEMPLATE
) -> list[int]:
    """What an answer begins after: these messages, and the header of the assistant's next.

    Args:
        tokenizer: of the model.
        messages: what was said.
        template: `CHAT_TEMPLATE`, or one in Jinja.
    """
    if template != CHAT_TEMPLATE:
        from handloom.tokenizer import chat_template

        return chat_template.encode(tokenizer, messages, template)
    return encode_conversation(tokenizer, messages).ids + tokenizer.encode(header_of("assistant"))


def header_of(role: str) -> str:
    """What stands before a message."""
    return f"{role.capitalize()}:\n"


def written(messages: Sequence[Message]) -> str:
    """The conversation as the template writes it, for people."""
    return END_OF_TEXT + "".join(header_of(m.role) + m.content + END_OF_TEXT for m in messages)


def in_jinja(tokenizer: Tokenizer) -> str:
    """Our own template as transformers and llama.cpp read it.

    They encode a header and what follows it together, so a content that begins with two or more white-space
    characters may have other ids there.
    """
    end = json.dumps(tokenizer.decode([tokenizer.eos_token_id]), ensure_ascii=False)
    names = {role: role.capitalize() for role in ROLES}
    return (
        f"{{{{ {end} }}}}{{% for message in messages %}}"
        f"{{{{ {names}[message['role']] + ':\\n' + message['content'] + {end} }}}}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
    )


def template_of(tokenizer: Tokenizer) -> str | None:
    """The template that a tokenizer's files name: `CHAT_TEMPLATE`, or one in Jinja; None: there is none."""
    given = tokenizer.settings.chat_template
    return CHAT_TEMPLATE if given == in_jinja(tokenizer) else given
