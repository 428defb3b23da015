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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handloom.errors import HandloomError, did_you_mean
from handloom.tokenizer.base import END_OF_TEXT, Tokenizer
from handloom.values import kind_of

CHAT_TEMPLATE = "turns-1"  # the name of this encoding of conversations; another encoding has another name

ROLES = ("system", "user", "assistant")
UNSUPPORTED_FIELDS = {
    *("tools", "tool_calls", "tool_call_id", "functions", "function_call"),
    *("image", "images", "image_url", "video", "videos", "audio", "audios", "files", "documents"),
    *("reasoning", "reasoning_content", "thinking", "refusal"),
}
"""Fields without which a record or message would mean something else."""
NOTHING: tuple[Any, ...] = (None, "", [], {})  # values of a field that count as absent
_TOOL_ROLES = {
    *("tool", "tool_call", "tool_calls", "tool_response", "function", "function_call", "function_response"),
    *("observation", "ipython"),
}
_SHAREGPT_ROLES = dict.fromkeys(("gpt", "chatgpt", "bot", "model"), "assistant") | {"human": "user"}
_EXAMPLE = 'Write a message as {"role": "user", "content": "..."}.'


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # one of `ROLES`
    content: str
    train: bool = True  # whether an assistant's message is a training target


@dataclass(frozen=True)
class EncodedChat:
    """The ids of a text, and which of them are training targets."""

    ids: list[int]
    loss_mask: list[bool]


@dataclass(frozen=True)
class MessageParser:
    """The one validator of chat messages: from the objects of OpenAI's and ShareGPT's formats to `Message`."""

    refuse: Callable[[str, str], HandloomError]  # makes the error to raise from a problem and a remedy
    text: Callable[[Any, str], str]  # returns a value, named by the second argument, that has to be a text, or raises
    ignored: Callable[[str], None] = lambda field: None  # called with the name of each field that is not used

    def parse(self, given: Any, what: str) -> Message:
        """`{"role", "content"}`, ShareGPT's `{"from", "value"}`, or a `Message`; `what` names it in errors."""
        if isinstance(given, Message):
            given = {"role": given.role, "content": given.content, "weight": int(given.train)}
        is_object = isinstance(given, Mapping)
        role_key, content_key = ("from", "value") if is_object and "from" in given else ("role", "content")
        if not is_object or role_key not in given:
            problem = "lacks a role and a content" if is_object else f"is {kind_of(given)}"
            raise self.refuse(f"{what} {problem}.", _EXAMPLE)
        role = self._role(given[role_key], what, sharegpt=role_key == "from")
        for name, value in given.items():
            if name in (role_key, content_key, "weight") or value in NOTHING:
                continue
            if name in UNSUPPORTED_FIELDS:
                raise self.refuse(f'{what} has the unsupported field "{name}".', "Remove that field, or that message.")
            self.ignored(name)
        if content_key not in given:
            raise self.refuse(f'{what} lacks the field "{content_key}".', _EXAMPLE)
        content = self._content(given[content_key], f"The content of {what}")
        weight = given.get("weight")
        if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
            raise self.refuse(
                f"The weight of {what} is {weight!r}; it must be 0 or 1.",
                "0 excludes an answer from the loss; leave weight out otherwise.",
            )
        return Message(role, content, weight is None or bool(weight))

    def _role(self, value: Any, what: str, sharegpt: bool) -> str:
        role = self.text(value, f"The role of {what}")
        if role in _TOOL_ROLES:
            raise self.refuse(
                f"{what} is a turn of a tool ({role!r}), which is not supported.",
                "Leave out that conversation, or put what the tool returned into a turn of the user.",
            )
        meant = _SHAREGPT_ROLES.get(role, role)
        role = meant if sharegpt else role
        if role not in ROLES:
            hint = f"Did you mean {meant!r}?" if meant in ROLES else did_you_mean(role, ROLES)
            raise self.refuse(
                f"{what} has the unknown role {role!r}.", f"{hint} The roles are {', '.join(ROLES)}.".strip()
            )
        return role

    def _content(self, value: Any, what: str) -> str:
        """A text, or OpenAI's list of `{"type": "text", "text"}`, concatenated."""
        if not isinstance(value, list):
            return self.text(value, what)
        for number, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else kind_of(part)
            fields = part if kind == "text" else {}
            found = next((name for name in fields if name in UNSUPPORTED_FIELDS and fields[name] not in NOTHING), kind)
            if found != "text" or not isinstance(fields.get("text"), str):
                raise self.refuse(
                    f"{what} has a part, number {number}, that is not text ({found}).",
                    'A part of a content is {"type": "text", "text": "..."}.',
                )
        return self.text("".join(part["text"] for part in value), what)


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> EncodedChat:
    """All of a conversation; the loss is on the assistant's contents, each with the end of text after it."""
    ids, loss_mask = [tokenizer.eos_token_id], [False]
    for message, content in zip(messages, tokenizer.encode_batch([m.content for m in messages]), strict=True):
        header = tokenizer.encode(header_of(message.role))
        is_target = message.role == "assistant" and message.train
        ids += [*header, *content, tokenizer.eos_token_id]
        loss_mask += [False] * len(header) + [is_target] * (len(content) + 1)
    return EncodedChat(ids, loss_mask)


def encode_generation_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], template: str = CHAT_TEMPLATE
) -> list[int]:
    """These messages and the header of the assistant's next, by `CHAT_TEMPLATE` or a template in Jinja."""
    if template != CHAT_TEMPLATE:
        from handloom.tokenizer import chat_template

        return chat_template.encode(tokenizer, messages, template)
    return encode_conversation(tokenizer, messages).ids + tokenizer.encode(header_of("assistant"))


def header_of(role: str) -> str:
    """What stands before a message."""
    return f"{role.capitalize()}:\n"


def render(messages: Sequence[Message]) -> str:
    """The conversation in `CHAT_TEMPLATE`, for people."""
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
