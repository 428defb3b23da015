"""Conversations as text, for programs that pass prompts as text: the chat template's borders become characters.

Between messages the template has a token that no text can spell, and each part is encoded alone. Two noncharacters of
Unicode stand for the borders, which real text never holds; a message that does is refused. Knows no harness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from handloom.errors import RequestError
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import ROLES, header_of

_END = "\ufdd0"
"""The end of text before, between and after messages."""
_BORDER = "\ufdd1"
"""Where a message's header ends: its content is encoded alone."""


def chat_text(messages: Iterable[Mapping[str, str]], *, answered: bool) -> str:
    """A conversation as one text.

    Args:
        messages: each with role and content.
        answered: whether the last one is an answer to go on with; otherwise the header of the next answer follows.

    Raises:
        RequestError: for a role that the template does not have, or a content with the characters that mean borders.
    """
    text = _END
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise RequestError(
                f"A task has a message of {role!r}, and the model learned {', '.join(ROLES)}.",
                "Leave out --apply_chat_template.",
            )
        if _END in content or _BORDER in content:
            raise RequestError(
                "A task's text holds U+FDD0 or U+FDD1, which are no characters.", "Remove them from its data."
            )
        text += header_of(role) + _BORDER + content + _END
    return text.removesuffix(_END) if answered else text + header_of("assistant") + _BORDER


def is_chat(text: str) -> bool:
    """Whether `chat_text` made it."""
    return text.startswith(_END)


def chat_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a conversation, as training and answering have them."""
    ids: list[int] = []
    for number, message in enumerate(text.split(_END)):
        ids += [tokenizer.eos_token_id] if number else []
        for part in message.split(_BORDER):
            ids += tokenizer.encode(part) if part else []
    return ids
