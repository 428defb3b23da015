"""Chat templates in Jinja, as Hugging Face folders have them: rendered as transformers does it, in a sandbox.

The content of a message stays ordinary text: only the template itself writes special tokens.

Source: `render_jinja_template` in the library transformers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from handloom.errors import RequestError

if TYPE_CHECKING:
    from jinja2 import Template

    from handloom.tokenizer.base import Tokenizer
    from handloom.tokenizer.chat import Message


def encode(tokenizer: Tokenizer, messages: Sequence[Message], template: str) -> list[int]:
    """Ids of a conversation and the header of an answer; RequestError where the template rejects these messages."""
    special = sorted((t.content for t in tokenizer.settings.added if t.special), key=len, reverse=True)
    typed = "".join(message.content for message in messages)
    letters = sorted({content[0] for content in special if content in typed})
    free = (chr(number) for number in range(0xFDD0, 0xFDF0) if chr(number) not in typed)
    hidden = dict(zip(letters, free, strict=False))

    def ordinary(text: str) -> str:
        """The same with the first letter of each special token hidden, so that it stays text."""
        for content in special:
            if content in text and content[0] in hidden:
                text = text.replace(content, hidden[content[0]] + content[1:])
        return text

    plain = [{"role": message.role, "content": ordinary(message.content)} for message in messages]
    values = {"messages": plain, "tools": None, "documents": None, "add_generation_prompt": True}
    try:
        text = _compiled(template).render(**values, **tokenizer.settings.named)
    except Exception as error:  # a template is a program, and somebody else's
        raise RequestError(
            f"The model's chat template rejects these messages: {error or type(error).__name__}.",
            "Pass other messages, or a text to continue (`chat_template=false`).",
        ) from error
    return tokenizer.encode(text, special=True, stand_ins={ord(mark): letter for letter, mark in hidden.items()})


class _Generation(Extension):
    """`{% generation %}` marks what an assistant writes; it changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **how)
