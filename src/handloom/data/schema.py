"""From a record to a typed example: checks its fields, takes out texts and messages; every error names its place.

Every field is learned, is counted as left out, or is refused by name where the record would mean something else
without it. Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from handloom.data.text_io import FaultError, Origin, ReadOptions, form_of
from handloom.errors import DataError
from handloom.tokenizer.chat import NOTHING, UNSUPPORTED_FIELDS, Message, MessageParser
from handloom.values import kind_of

_LISTS = ("messages", "conversations", "conversation")
_SYSTEM = ("system", "system_prompt")
_MEANING = {
    *(*_LISTS, *_SYSTEM, "history", "instruction", "input", "output", "prompt", "completion", "chosen", "rejected"),
    *("context", "query", "question", "answer", "answers", "response", "responses", "text_pair"),
    *UNSUPPORTED_FIELDS,
}
"""Fields that mean something to the model in some form: none is left out silently."""
_CONVERSATION = (
    'A conversation is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, '
    '{"instruction": "...", "input": "...", "output": "..."} or {"prompt": "...", "completion": "..."}; docs/tasks.md '
    "has all forms."
)
_PAIR = 'A pair is {"prompt": "...", "chosen": "...", "rejected": "..."}, of texts or of lists of messages.'
_LABELED = 'A labelled text is {"text": "...", "label": "..."}.'


@dataclass(frozen=True)
class Record:
    """An object of named fields, and where it stands."""

    fields: dict[str, Any]
    origin: Origin
    options: ReadOptions
    omitted: list[tuple[str, str]] = field(default_factory=list, compare=False)
    """What of it is not learned: reasons of `omissions`, each with what it is counted by."""

    @classmethod
    def of(cls, value: Any, origin: Origin, options: ReadOptions) -> Record:
        """Raises DataError unless `value` is an object."""
        if not isinstance(value, dict):
            raise DataError(
                f"{origin}: {kind_of(value)}, not an object.",
                "Write one JSON object a line; a file that is one list of objects needs a name that ends in .json.",
            )
        return cls(value, origin, options)

    def refuse(self, problem: str, remedy: str, rule: str = "malformed") -> DataError:
        """The error to raise, which names the place of the record; `rule` is that of the linter."""
        return FaultError(f"{self.origin}: {problem}", remedy, rule)

    def missing(self, name: str, remedy: str, rule: str = "malformed") -> DataError:
        """The error for a field that is not there, with those that are."""
        there = ", ".join(sorted(map(str, self.fields))) or "none"
        return self.refuse(f'no field "{name}" (fields there: {there}).', remedy, rule)

    def require(self, name: str, remedy: str, rule: str = "malformed") -> Any:
        """The value of a field, of any type; raises `missing` if it is not there."""
        if name not in self.fields:
            raise self.missing(name, remedy, rule)
        return self.fields[name]

    def leave_out(self, field: str) -> None:
        """Count a field as left out."""
        self.omitted.append(("field", field.encode("utf-8", "backslashreplace").decode("utf-8")))

    def text(self, value: Any, what: str) -> str:
        r"""`value` as text, its line ends `\n`; raises DataError unless it is a string, and not blank."""
        if not isinstance(value, str):
            raise self.refuse(f"{what} is {kind_of(value)}, not a string.", "Fix or remove that record.")
        text = self.options.plain(value, self.origin)
        if not text.strip():
            raise self.refuse(f"{what} is empty.", "Fill it in, or remove that record.", "empty")
        return text

    def optional(self, name: str) -> str:
        """The text in a field; empty where the field is missing, null, or a blank text."""
        value = self.fields.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return ""
        if not isinstance(value, str):
            problem = f'the field "{name}" is {kind_of(value)}, not a string.'
            raise self.refuse(problem, 'Write it as a text, or null or "" for none.')
        return self.options.plain(value, self.origin)

    def messages(self, name: str) -> tuple[Message, ...]:
        """The messages in a field, one or a list of some; see `MessageParser`."""
        value = self.fields[name]
        value = [value] if isinstance(value, dict) else value
        if not isinstance(value, list):
            remedy = 'Write messages as [{"role": "user", "content": "..."}, ...].'
            raise self.refuse(f"{name} is {kind_of(value)}, not a list.", remedy)
        if not value:
            raise self.refuse(f"{name} is an empty list.", "Fill it in, or remove that record.", "empty")
        parser = MessageParser(self.refuse, self.text, lambda field: self.leave_out(f"{field} of messages"))
        return tuple(parser.parse(each, f"{name}[{number}]") for number, each in enumerate(value))

    def messages_or_text(self, name: str, role: str) -> tuple[Message, ...]:
        """A field that holds messages, or the text of one."""
        value = self.fields[name]
        is_text = not isinstance(value, list | dict)
        return (Message(role, self.text(value, f"The {name}")),) if is_text else self.messages(name)


def text_of(record: Record) -> str:
    """The text of a record of running text, empty for null; DataError unless its text field holds a string."""
    name, remedy = record.options.text_field, "Name the field that holds the text with `text_field`"
    is_json = form_of(Path(record.origin.file)) in ("json", "jsonl")
    value = record.require(
        name, f"{remedy}; to take JSON as text, use `json_as_text=true`." if is_json else f"{remedy}."
    )
    if value is not None and not isinstance(value, str):
        problem = f'field "{name}" is {kind_of(value)}, not a string.'
        raise record.refuse(problem, f"{remedy}, or fix that record.")
    for other, content in record.fields.items():
        if other != name and content not in NOTHING:
            record.leave_out(other)
    return record.options.plain(value or "", record.origin)


def conversation(record: Record) -> tuple[Message, ...]:
    """The messages of a list of them, of Alpaca's instruction and output, or of a prompt and its completion; checked by
    `check_turns`."""
    if lists := [name for name in _LISTS if name in record.fields]:
        name, used = lists[0], {lists[0]}
        messages = record.messages(name)
    elif "instruction" in record.fields:
        name, used = "history and instruction", {"instruction", "input", "output", "history"}
        output = record.text(record.require("output", _CONVERSATION), "The output")
        messages = (*_context(record, _instruction(record)), Message("assistant", output))
    elif "prompt" in record.fields:
        name, used = "prompt + completion", {"prompt", "completion"}
        record.require("completion", _CONVERSATION)
        prompt = _context(record, record.messages_or_text("prompt", "user"))
        messages = (*prompt, *record.messages_or_text("completion", "assistant"))
    else:
        raise record.missing("messages", _CONVERSATION)
    messages = _with_system(record, messages)
    check_turns(record, messages, name)
    _account(record, used, messages)
    return messages


def pair(record: Record) -> tuple[str | tuple[Message, ...], str, str]:
    """Prompt, preferred and other answer.

    All three are texts; or the prompt is messages (a list, Alpaca's instruction, or ShareGPT's conversations) and each
    answer a text or messages: the answer alone, or the whole conversation, alike up to the answer (`prompt` may then be
    absent, or repeat the last question). Raises DataError for anything else, or two equal answers.
    """
    fields = record.fields
    answers = [record.require(name, _PAIR) for name in ("chosen", "rejected")]
    if isinstance(answers[0], str) != isinstance(answers[1], str):
        text, other = ("chosen", "rejected") if isinstance(answers[0], str) else ("rejected", "chosen")
        problem = f'"{text}" is a string, but "{other}" is {kind_of(fields[other])}.'
        raise record.refuse(problem, "Write both in the same way.")
    used = {"prompt", "chosen", "rejected"}
    before: tuple[Message, ...] = ()
    if lists := [name for name in ("conversations", "conversation", "prompt") if isinstance(fields.get(name), list)]:
        before = record.messages(lists[0])
        used.add(lists[0])
    elif "instruction" in fields:
        before = _instruction(record)
        used |= {"instruction", "input", "history"}
    prompt: str | tuple[Message, ...]
    if isinstance(answers[0], str) and not before:
        prompt = record.text(record.require("prompt", _PAIR), "The prompt")
        chosen, rejected = (record.text(fields[name], f'The text "{name}"') for name in ("chosen", "rejected"))
        _account(record, used, ())
    else:
        prompt, chosen, rejected = _conversational_pair(record, before)
        _account(record, used, prompt)
    if chosen == rejected:
        raise record.refuse("both answers are the same, so none can be preferred.", "Remove that record.")
    return prompt, chosen, rejected


def labeled(record: Record) -> tuple[str, str]:
    """Text and label of `{"text", "label"}`; a label is a string, or a whole number, which is written out."""
    text = record.require("text", _LABELED)
    label = record.require("label", _LABELED, "no-label")
    if isinstance(label, bool) or not isinstance(label, str | int):
        problem = f"the label is {kind_of(label)}; it must be a string or a whole number."
        raise record.refuse(problem, "Write its name.", "no-label" if label is None else "malformed")
    if not str(label).strip():
        raise record.refuse("The label is empty.", "Fill it in, or remove that record.", "no-label")
    text = record.text(text, "The text")
    _account(record, {"text", "label"}, ())
    return text, record.text(str(label), "The label").strip()


def check_turns(record: Record, messages: tuple[Message, ...], what: str) -> None:
    """Raise DataError unless user and assistant speak in turn, the user first, and the assistant last.

    A message of the system may stand before all others.
    """
    if all(message.role != "assistant" for message in messages):
        problem = f"no message in {what} is the assistant's, so there is nothing to learn."
        raise record.refuse(problem, "Add an answer.", "no-assistant")
    first = int(messages[0].role == "system")
    for number, message in enumerate(messages[first:], start=first):
        if message.role == ("user", "assistant")[(number - first) % 2]:
            continue
        if message.role == "system":
            problem, remedy = "only the first message may be the system's", "Put it first, or remove it"
        elif number and messages[number - 1].role == message.role:
            problem, remedy = f"the {message.role} has spoken just before", "Join the two into one message"
        else:
            problem, remedy = "the user speaks first", "Put the question before it, or remove it"
        raise record.refuse(f"{what}[{number}] is the {message.role}'s, but {problem}.", f"{remedy}.")
    if messages[-1].role != "assistant":
        raise record.refuse(f"the last message of {what} is not answered.", "Add the assistant's, or remove it.")


def _instruction(record: Record) -> tuple[Message, ...]:
    """Alpaca's earlier turns, instruction and input; an input follows its instruction after a blank line."""
    turns = [] if record.fields.get("history") in NOTHING else record.fields["history"]
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise record.refuse(
            "history is not a list of pairs of question and answer.",
            'Write it as [["question", "answer"], ...], or the whole conversation as messages.',
        )
    earlier = (
        Message(role, record.text(text, f"The {role}'s text in history[{number}]"))
        for number, turn in enumerate(turns)
        for role, text in zip(("user", "assistant"), turn, strict=True)
    )
    instruction, more = record.text(record.fields["instruction"], "The instruction"), record.optional("input")
    return (*earlier, Message("user", f"{instruction}\n\n{more}" if more else instruction))


def _context(record: Record, messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same, but read only: no answer among them is learned, which is counted."""
    found = tuple(replace(message, train=False) if message.role == "assistant" else message for message in messages)
    record.omitted.extend([("context", "")] * sum(message.role == "assistant" for message in found))
    return found


def _with_system(record: Record, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    for name in _SYSTEM:
        system = record.optional(name)
        if system and messages[0].role != "system":
            messages = (Message("system", system), *messages)
        elif system and system != messages[0].content:
            problem = f'the field "{name}" and the first message are both the system\'s, and differ.'
            raise record.refuse(problem, "Remove one of them.")
    return messages


def _conversational_pair(record: Record, before: tuple[Message, ...]) -> tuple[tuple[Message, ...], str, str]:
    answers = []
    for name in ("chosen", "rejected"):
        whole = _with_system(record, (*before, *record.messages_or_text(name, "assistant")))
        check_turns(record, whole, f"prompt + {name}" if before else name)
        answers.append(whole)
    prompt = answers[0][:-1]
    if prompt != answers[1][:-1] or (before and prompt[-len(before) :] != before):
        raise record.refuse(
            '"chosen" and "rejected" differ before their last answer.',
            "Each is one message of the assistant after the same messages; shorten both to that.",
        )
    repeats = isinstance(record.fields.get("prompt"), list) or record.optional("prompt") in ("", prompt[-1].content)
    if not repeats:
        raise record.refuse("the prompt is a text other than the last question in the messages.", 'Remove "prompt".')
    return prompt, answers[0][-1].content, answers[1][-1].content


def _account(record: Record, used: set[str], messages: Iterable[Message]) -> None:
    """Count the fields that are left out; DataError for one without which the record would mean something else."""
    contents = [message.content for message in messages]
    values = [record.fields[name] for name in used if name in record.fields]
    for name, value in record.fields.items():
        if name in used or value in NOTHING or (contents and name in _SYSTEM):
            continue
        repeats = value in values or (isinstance(value, str) and value in contents)
        is_judgement = name == "label" and isinstance(value, bool)
        if (name in _MEANING and not repeats) or is_judgement:
            if name in UNSUPPORTED_FIELDS:
                problem = f'the field "{name}" cannot be learned, and the record means something else without it.'
            else:
                of = min(used & record.fields.keys())
                problem = f'both "{of}" and "{name}" are there, and only one of them would be learned.'
            raise record.refuse(problem, f'Remove "{name}", or put its content into what is learned.')
        record.leave_out(name)
