"""What a record of JSON Lines has to look like to be an example. Every fault names its file, line and field.

Extra fields beside those of an example's own form are left alone. Knows no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from handloom.data.readers import without_lone_surrogates
from handloom.errors import DataError, did_you_mean
from handloom.tokenizer.chat import ROLES, Message

_OTHER_NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_FORMS = {
    "conversation": '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]} or '
    '{"instruction": "...", "input": "...", "output": "..."}',
    "pair": '{"prompt": "...", "chosen": "...", "rejected": "..."}, of texts or of lists of messages',
    "labelled text": '{"text": "...", "label": "..."}',
}


class EmptyError(DataError):
    """Nothing stands where a text or messages should be."""


class NoLabelError(DataError):
    """A text to learn a label from has none."""


class NoAssistantError(DataError):
    """A conversation has no message of the assistant."""


@dataclass(frozen=True)
class Origin:
    """Where an example came from."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True)
class Record:
    """A JSON object, and where it stands."""

    fields: dict[str, Any]
    origin: Origin
    encoding_errors: str = "strict"

    @classmethod
    def of(cls, value: Any, origin: Origin, encoding_errors: str = "strict") -> Record:
        """Raises DataError unless `value` is an object."""
        if isinstance(value, list):
            raise DataError(
                f"{origin}: a JSON list, not an object.",
                "Write one object a line; `jq -c '.[]' FILE > FILE.jsonl` does that with a list.",
            )
        if not isinstance(value, dict):
            raise DataError(
                f"{origin}: {_kind(value)}, not an object.", "JSON Lines holds one JSON object a line."
            )
        return cls(value, origin, encoding_errors)

    def refuse(self, problem: str, remedy: str, error: type[DataError] = DataError) -> DataError:
        """The error to raise: what is wrong at this place, and what to do."""
        return error(f"{self.origin}: {problem}", remedy)

    def require(self, form: str, *names: str, error: type[DataError] = DataError) -> None:
        """Raise `error` unless all these fields are there."""
        for name in names:
            if name not in self.fields:
                there = ", ".join(sorted(self.fields)) or "none"
                raise self.refuse(
                    f'no field "{name}" (fields there: {there}).', f"A {form} is {_FORMS[form]}.", error
                )

    def text(self, value: Any, what: str, *, blank: bool = False) -> str:
        """`value` as text, its line ends `\\n`; raises DataError unless it is one, and not blank."""
        if not isinstance(value, str):
            raise self.refuse(f"{what} is {_kind(value)}, not a string.", "Mend or remove that line.")
        text = value.replace("\r\n", "\n").replace("\r", "\n")
        if not blank and not text.strip():
            raise self.refuse(f"{what} is empty.", "Fill it in, or remove that line.", EmptyError)
        return without_lone_surrogates(text, str(self.origin), self.encoding_errors)

    def messages(self, value: Any, what: str) -> tuple[Message, ...]:
        """`value` as messages; raises DataError unless it is a list of some."""
        if not isinstance(value, list):
            raise self.refuse(
                f"{what} is {_kind(value)}, not a list.",
                'Write messages as [{"role": "user", "content": "..."}, ...].',
            )
        if not value:
            raise self.refuse(f"{what} is an empty list.", "Fill it in, or remove that line.", EmptyError)
        return tuple(self._message(each, f"{what}[{number}]") for number, each in enumerate(value))

    def _message(self, value: Any, what: str) -> Message:
        if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
            shown = (
                f"{what} has no role and content" if isinstance(value, dict) else f"{what} is {_kind(value)}"
            )
            raise self.refuse(f"{shown}.", 'Write a message as {"role": "user", "content": "..."}.')
        role = self.text(value["role"], f"The role of {what}")
        if role not in ROLES:
            hint = (
                f"Did you mean {_OTHER_NAMES[role]!r}?" if role in _OTHER_NAMES else did_you_mean(role, ROLES)
            )
            raise self.refuse(
                f"{what} has the unknown role {role!r}.", f"{hint} The roles are {', '.join(ROLES)}.".strip()
            )
        for name, extra in value.items():
            if name not in ("role", "content", "weight", "name") and extra is not None:
                raise self.refuse(
                    f'{what} has a field "{name}", which would not be learned.',
                    "Remove that field, or that line.",
                )
        return Message(role, self.text(value["content"], f"The content of {what}"), self._weight(value, what))

    def _weight(self, message: dict[str, Any], what: str) -> bool:
        weight = message.get("weight")
        if weight is None:
            return True
        if isinstance(weight, bool) or weight not in (0, 1):
            raise self.refuse(
                f"The weight of {what} is {weight!r}; it must be 0 or 1.",
                "0 leaves an answer unlearned; leave weight out otherwise.",
            )
        return bool(weight)


def conversation(record: Record) -> tuple[Message, ...]:
    """The messages of `{"messages"}` or of Alpaca's `{"instruction", "input"?, "output"}`.

    An input that is not empty follows its instruction after a blank line, in the same message.

    Raises:
        DataError: unless the messages are those of a whole conversation; see `check_turns`.
    """
    fields = record.fields
    if "messages" in fields and "instruction" in fields:
        raise record.refuse(
            'both "messages" and "instruction" are there, so it is two examples in one.',
            "Remove one of them.",
        )
    if "instruction" in fields:
        record.require("conversation", "output")
        asked = record.text(fields["instruction"], "The instruction")
        more = record.text(fields.get("input") or "", "The input", blank=True)
        asked += f"\n\n{more}" if more.strip() else ""
        return Message("user", asked), Message("assistant", record.text(fields["output"], "The output"))
    record.require("conversation", "messages")
    messages = record.messages(fields["messages"], "messages")
    check_turns(record, messages, "messages")
    return messages


def check_turns(record: Record, messages: tuple[Message, ...], what: str) -> None:
    """Raise DataError unless user and assistant speak in turn, the user first, and the assistant last.

    A message of the system may stand before all others. Whoever speaks twice in a row has to be joined into one
    message first: what stands between two messages of one side is a matter of the data, not of a template.
    """
    if all(message.role != "assistant" for message in messages):
        raise record.refuse(
            f"no message in {what} is the assistant's, so there is nothing to learn.",
            "Add an answer.",
            NoAssistantError,
        )
    turns = messages[1:] if messages[0].role == "system" else messages
    for number, message in enumerate(turns, start=len(messages) - len(turns)):
        wanted = "user" if (number - (len(messages) - len(turns))) % 2 == 0 else "assistant"
        if message.role == wanted:
            continue
        if message.role == "system":
            problem, remedy = "only the first message may be the system's", "Put it first, or remove it"
        elif number and messages[number - 1].role == message.role:
            problem, remedy = f"the {message.role} has spoken just before", "Join the two into one message"
        else:
            problem, remedy = "the user speaks first", "Put what was asked before it, or remove it"
        raise record.refuse(f"{what}[{number}] is the {message.role}'s, but {problem}.", f"{remedy}.")
    if turns[-1].role != "assistant":
        raise record.refuse(
            f"the last message of {what} has no answer.", "Add the assistant's, or remove it."
        )


def pair(record: Record) -> tuple[str | tuple[Message, ...], str, str]:
    """Prompt, preferred and other answer of `{"prompt", "chosen", "rejected"}`.

    Either all are texts; or `chosen` and `rejected` are lists of messages, each the answer alone after a `prompt` of
    messages, or both the whole conversation, alike up to the answer (`prompt` may then be absent, or repeat what was
    asked last).

    Raises:
        DataError: for anything else, or two answers that are the same.
    """
    record.require("pair", "chosen", "rejected")
    fields = record.fields
    texts = [name for name in ("chosen", "rejected") if not isinstance(fields[name], list)]
    prompt: str | tuple[Message, ...]
    if len(texts) == 2:
        record.require("pair", "prompt")
        if isinstance(fields["prompt"], list):
            raise record.refuse(
                'the prompt is a list of messages, but "chosen" and "rejected" are none.',
                'Write each answer as [{"role": "assistant", "content": "..."}], or the prompt as a text.',
            )
        prompt = record.text(fields["prompt"], "The prompt")
        chosen, rejected = (
            record.text(fields[name], f'The text "{name}"') for name in ("chosen", "rejected")
        )
    elif texts:
        raise record.refuse(
            f'"{texts[0]}" is {_kind(fields[texts[0]])}, but the other answer is a list of messages.',
            "Write both in the same way.",
        )
    else:
        prompt, chosen, rejected = _conversational_pair(record)
    if chosen == rejected:
        raise record.refuse("both answers are the same, so none can be preferred.", "Remove that line.")
    return prompt, chosen, rejected


def _conversational_pair(record: Record) -> tuple[tuple[Message, ...], str, str]:
    fields = record.fields
    before: tuple[Message, ...] = ()
    asked = None
    if isinstance(fields.get("prompt"), list):
        before = record.messages(fields["prompt"], "prompt")
    elif fields.get("prompt") is not None:
        asked = record.text(fields["prompt"], "The prompt")
    answers = []
    for name in ("chosen", "rejected"):
        whole = before + record.messages(fields[name], name)
        check_turns(record, whole, f"prompt + {name}" if before else name)
        answers.append(whole)
    prompt = answers[0][:-1]
    if prompt != answers[1][:-1] or (before and prompt != before):
        raise record.refuse(
            '"chosen" and "rejected" part before their last answer.',
            "Each is one message of the assistant after the same messages; shorten both to that.",
        )
    if asked is not None and prompt[-1].content != asked:
        raise record.refuse(
            "the prompt is a text, and not what was asked last in the messages.", 'Remove "prompt".'
        )
    return prompt, answers[0][-1].content, answers[1][-1].content


def labelled(record: Record) -> tuple[str, str]:
    """Text and label of `{"text", "label"}`; a label is a string, or a whole number, which is written out.

    Raises:
        DataError: for anything else.
    """
    record.require("labelled text", "text")
    record.require("labelled text", "label", error=NoLabelError)
    label = record.fields["label"]
    if isinstance(label, bool) or not isinstance(label, str | int):
        error = NoLabelError if label is None else DataError
        raise record.refuse(
            f"the label is {_kind(label)}; it must be a string or a whole number.", "Write its name.", error
        )
    if not str(label).strip():
        raise record.refuse("The label is empty.", "Fill it in, or remove that line.", NoLabelError)
    text = record.text(record.fields["text"], "The text")
    return text, record.text(str(label), "The label").strip()


def _kind(value: Any) -> str:
    """What a JSON value is, for people."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
