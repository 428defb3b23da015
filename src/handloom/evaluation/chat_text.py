"""Conversations as text, for programs that pass prompts as text: the chat template's borders become characters.

Between messages the template has a token that no text can spell, and each part is encoded alone. Two noncharacters of
Unicode, which real text never contains, stand for the borders; a message with them is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from handloom.errors import RequestError
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import ROLES, header_of

_END = "\ufdd0"  # the end of text before, between and after messages
_BORDER = "\ufdd1"  # where a message's header ends: its content is encoded alone


def chat_text(messages: Iterable[Mapping[str, str]], *, answered: bool) -> str:
    """Messages, each with role and content, as one text; `answered`: the last one is an answer to continue, otherwise
    the header of the next answer follows.

    Raises RequestError for a role that the template does not have, or a content with the characters of borders.
    """
    text = _END
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise RequestError(
                f"A task has a message of {role!r}, and the model was trained on {', '.join(ROLES)}.",
                "Leave the harness's `apply_chat_template` out.",
            )
        if _END in content or _BORDER in content:
            raise RequestError(
                "A task's text contains U+FDD0 or U+FDD1, which are not characters.", "Remove them from its data."
            )
        text += header_of(role) + _BORDER + content + _END
    return text.removesuffix(_END) if answered else text + header_of("assistant") + _BORDER


def is_chat(text: str) -> bool:
    """Whether `chat_text` made it."""
    return text.startswith(_END)


def chat_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a conversation, as in training."""
    ids: list[int] = []
    for number, message in enumerate(text.split(_END)):
        ids += [tokenizer.eos_token_id] if number else []
        for part in message.split(_BORDER):
            ids += tokenizer.encode(part) if part else []
    return ids
