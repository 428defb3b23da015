"""What a record has to look like to be an example: conversations, pairs of answers, texts with labels.

Every field is learned, is counted as left out, or is refused by name where the record would mean something else
without it. Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from handloom.data.schema import Record
from handloom.data.text_io import NoAssistantError, NoLabelError
from handloom.errors import DataError
from handloom.tokenizer.chat import NOTHING, UNSUPPORTED_FIELDS, Message
from handloom.values import kind_of

_LISTS = ("messages", "conversations", "conversation")
_SYSTEM = ("system", "system_prompt")
_MEANING = {
    *(*_LISTS, *_SYSTEM, "history", "instruction", "input", "output", "prompt", "completion", "chosen", "rejected"),
    *("context", "query", "question", "answer", "answers", "response", "responses", "text_pair"),
    *UNSUPPORTED_FIELDS,
}
"""Fields that say something to the model in some form: none is left out without a word of it."""
_FORMS = {
    "conversation": '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, '
    '{"instruction": "...", "input": "...", "output": "..."} or {"prompt": "...", "completion": "..."}; docs/tasks.md '
    "has all forms",
    "pair": '{"prompt": "...", "chosen": "...", "rejected": "..."}, of texts or of lists of messages',
    "labelled text": '{"text": "...", "label": "..."}',
}


def conversation(record: Record) -> tuple[Message, ...]:
    """The messages of a list of them, of Alpaca's instruction and output, or of a prompt and its completion.

    Raises:
        DataError: unless the messages are those of a whole conversation; see `check_turns`.
    """
    lists = [name for name in _LISTS if name in record.fields]
    if lists:
        name, learned = lists[0], {lists[0]}
        messages = record.messages(record.fields[name], name)
    elif "instruction" in record.fields:
        name, learned = "history and instruction", {"instruction", "input", "output", "history"}
        _require(record, "conversation", "output")
        answer = Message("assistant", record.text(record.fields["output"], "The output"))
        messages = (*_context(record, _instructed(record)), answer)
    elif "prompt" in record.fields:
        name, learned = "prompt + completion", {"prompt", "completion"}
        _require(record, "conversation", "completion")
        messages = (*_context(record, _said(record, "prompt", "user")), *_said(record, "completion", "assistant"))
    else:
        raise record.no_field("messages", f"A conversation is {_FORMS['conversation']}.")
    messages = _with_system(record, messages)
    check_turns(record, messages, name)
    _account(record, learned, messages)
    return messages


def pair(record: Record) -> tuple[str | tuple[Message, ...], str, str]:
    """Prompt, preferred and other answer.

    Either `{"prompt", "chosen", "rejected"}` are all texts; or the prompt is messages (a list, Alpaca's instruction, or
    ShareGPT's conversations) and each answer a text or messages: the answer alone, or the whole conversation, alike up
    to the answer (`prompt` may then be absent, or repeat what was asked last).

    Raises:
        DataError: for anything else, or two answers that are the same.
    """
    _require(record, "pair", "chosen", "rejected")
    fields = record.fields
    texts = [name for name in ("chosen", "rejected") if isinstance(fields[name], str)]
    if len(texts) == 1:
        other = "rejected" if texts == ["chosen"] else "chosen"
        raise record.refuse(
            f'"{texts[0]}" is a string, but "{other}" is {kind_of(fields[other])}.', "Write both in the same way."
        )
    learned = {"prompt", "chosen", "rejected"}
    before: tuple[Message, ...] = ()
    lists = [name for name in ("conversations", "conversation", "prompt") if isinstance(fields.get(name), list)]
    if lists:
        before = record.messages(fields[lists[0]], lists[0])
        learned.add(lists[0])
    elif "instruction" in fields:
        before = _instructed(record)
        learned |= {"instruction", "input", "history"}
    prompt: str | tuple[Message, ...]
    if texts and not before:
        _require(record, "pair", "prompt")
        prompt = record.text(fields["prompt"], "The prompt")
        chosen, rejected = (record.text(fields[name], f'The text "{name}"') for name in ("chosen", "rejected"))
        _account(record, learned, ())
    else:
        prompt, chosen, rejected = _conversational_pair(record, before)
        _account(record, learned, prompt)
    if chosen == rejected:
        raise record.refuse("both answers are the same, so none can be preferred.", "Remove that record.")
    return prompt, chosen, rejected


def labelled(record: Record) -> tuple[str, str]:
    """Text and label of `{"text", "label"}`; a label is a string, or a whole number, which is written out.

    Raises:
        DataError: for anything else.
    """
    _require(record, "labelled text", "text")
    _require(record, "labelled text", "label", error=NoLabelError)
    label = record.fields["label"]
    if isinstance(label, bool) or not isinstance(label, str | int):
        error = NoLabelError if label is None else DataError
        raise record.refuse(
            f"the label is {kind_of(label)}; it must be a string or a whole number.", "Write its name.", error
        )
    if not str(label).strip():
        raise record.refuse("The label is empty.", "Fill it in, or remove that record.", NoLabelError)
    text = record.text(record.fields["text"], "The text")
    _account(record, {"text", "label"}, ())
    return text, record.text(str(label), "The label").strip()


def check_turns(record: Record, messages: tuple[Message, ...], what: str) -> None:
    """Raise DataError unless user and assistant speak in turn, the user first, and the assistant last.

    A message of the system may stand before all others. Two messages of one side in a row have to be joined into one
    message first: what stands between them is a matter of the data, not of a template.
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
        raise record.refuse(f"the last message of {what} has no answer.", "Add the assistant's, or remove it.")


def _require(record: Record, form: str, *names: str, error: type[DataError] = DataError) -> None:
    for name in names:
        if name not in record.fields:
            raise record.no_field(name, f"A {form} is {_FORMS[form]}.", error)


def _said(record: Record, name: str, role: str) -> tuple[Message, ...]:
    """A field that holds messages, or the text of one."""
    value = record.fields[name]
    if isinstance(value, list | dict):
        return record.messages(value, name)
    return (Message(role, record.text(value, f"The {name}")),)


def _instructed(record: Record) -> tuple[Message, ...]:
    """Alpaca's earlier turns, instruction and input; an input follows its instruction after a blank line."""
    turns = record.fields.get("history")
    if turns in NOTHING:
        turns = []
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise record.refuse(
            "history is not a list of pairs, each of what was asked and answered.",
            'Write it as [["question", "answer"], ...], or the whole conversation as messages.',
        )
    earlier = (
        Message(role, record.text(text, f"The {role}'s text in history[{number}]"))
        for number, turn in enumerate(turns)
        for role, text in zip(("user", "assistant"), turn, strict=True)
    )
    asked = record.text(record.fields["instruction"], "The instruction")
    more = record.optional("input")
    return (*earlier, Message("user", f"{asked}\n\n{more}" if more else asked))


def _context(record: Record, messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same, but read only: no answer among them is learned, which is counted."""
    found = tuple(replace(message, train=False) if message.role == "assistant" else message for message in messages)
    record.omitted.extend([("context", "")] * sum(message.role == "assistant" for message in found))
    return found


def _with_system(record: Record, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    for name in _SYSTEM:
        said = record.optional(name)
        if said and messages[0].role != "system":
            messages = (Message("system", said), *messages)
        elif said and said != messages[0].content:
            raise record.refuse(
                f'the field "{name}" and the first message are both the system\'s, and differ.', "Remove one of them."
            )
    return messages


def _conversational_pair(record: Record, before: tuple[Message, ...]) -> tuple[tuple[Message, ...], str, str]:
    answers = []
    for name in ("chosen", "rejected"):
        whole = _with_system(record, (*before, *_said(record, name, "assistant")))
        check_turns(record, whole, f"prompt + {name}" if before else name)
        answers.append(whole)
    prompt = answers[0][:-1]
    if prompt != answers[1][:-1] or (before and prompt[-len(before) :] != before):
        raise record.refuse(
            '"chosen" and "rejected" part before their last answer.',
            "Each is one message of the assistant after the same messages; shorten both to that.",
        )
    if not isinstance(record.fields.get("prompt"), list):
        asked = record.optional("prompt")
        if asked and asked != prompt[-1].content:
            raise record.refuse(
                "the prompt is a text, and not what was asked last in the messages.", 'Remove "prompt".'
            )
    return prompt, answers[0][-1].content, answers[1][-1].content


def _account(record: Record, learned: set[str], messages: Iterable[Message]) -> None:
    """Count the fields that are left out; raise DataError for one that says what the record would not mean without it.

    A field that repeats what is learned says nothing more.
    """
    said: list[Any] = [message.content for message in messages]
    used = [record.fields[name] for name in learned if name in record.fields]
    for name, value in record.fields.items():
        if name in learned or value in NOTHING or (said and name in _SYSTEM):
            continue
        repeats = value in used or (isinstance(value, str) and value in said)
        if (name in _MEANING and not repeats) or (
            name == "label" and isinstance(value, bool) and "label" not in learned
        ):
            if name in UNSUPPORTED_FIELDS:
                problem = f'the field "{name}" cannot be learned, and the record means something else without it.'
            else:
                of = min(learned & record.fields.keys())
                problem = f'both "{of}" and "{name}" are there, and only one of them would be learned.'
            raise record.refuse(problem, f'Remove "{name}", or write what it says into what is learned.')
        record.leave_out(name)
