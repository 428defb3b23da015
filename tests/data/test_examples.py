"""Lines become examples, and every line that is none is named with what is wrong with it."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.data.examples import (
    KINDS,
    Conversation,
    LabeledText,
    PreferencePair,
    digest,
    read_examples,
    validation_mask,
)
from handloom.data.record_files import parse_line
from handloom.data.schema import Record
from handloom.data.text_io import Origin, ReadOptions
from handloom.errors import ConfigError, DataError
from handloom.tokenizer.chat import Message

HERE = Origin("chat.jsonl", 3)
HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def read(kind, record, encoding_errors="strict"):
    line = record if isinstance(record, bytes) else json.dumps(record).encode()
    options = ReadOptions(encoding_errors=encoding_errors)
    return kind.of(Record.of(parse_line(line, HERE, options), HERE, options))


def part(examples, validation_fraction):
    """Training and held-out examples, each in their order."""
    mask = validation_mask(examples, validation_fraction)
    return tuple([one for one, out in zip(examples, mask, strict=True) if out == side] for side in (False, True))


def test_messages_become_a_conversation():
    record = {"messages": [{"role": "system", "content": "Be\r\nbrief."}, *HELLO], "id": 7}
    assert read(Conversation, record) == Conversation(
        (Message("system", "Be\nbrief."), Message("user", "Hello"), Message("assistant", "Hi!")), HERE
    )


def test_a_weight_of_0_leaves_an_answer_unlearned():
    messages = [
        user("a"),
        {**assistant("b"), "weight": 0, "tool_calls": None},
        user("c"),
        {**assistant("d"), "weight": 1},
    ]
    found = read(Conversation, {"messages": messages}).messages
    assert [message.train for message in found] == [True, False, True, True]


@pytest.mark.parametrize("given", [{"input": "1 2 3"}, {"input": ""}, {"input": None}, {}])
def test_alpaca_is_a_conversation_of_two_messages(given):
    found = read(Conversation, {"instruction": "Add.", "output": "6", **given})
    asked = "Add.\n\n1 2 3" if given.get("input") else "Add."
    assert found.messages == (Message("user", asked), Message("assistant", "6"))


def test_pairs_in_each_of_their_forms():
    texts = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    assert read(PreferencePair, texts) == PreferencePair("The sky is", " blue.", " green.", HERE)
    explicit = {"prompt": [user("Sky?")], "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]}
    implicit = {name: [user("Sky?"), assistant(text)] for name, text in (("chosen", "Blue."), ("rejected", "Green."))}
    wanted = PreferencePair((Message("user", "Sky?"),), "Blue.", "Green.", HERE)
    assert (
        read(PreferencePair, explicit)
        == read(PreferencePair, implicit)
        == read(PreferencePair, {**implicit, "prompt": "Sky?"})
        == wanted
    )


@pytest.mark.parametrize(("label", "name"), [("spam", "spam"), (1, "1"), (-2, "-2"), (" ham ", "ham")])
def test_a_label_is_a_word_or_a_whole_number(label, name):
    assert read(LabeledText, {"text": "Buy now", "label": label}) == LabeledText("Buy now", name, HERE)


CONVERSATIONS_THAT_ARE_NONE = [
    (b'{"messages": ', "not JSON (Expecting value"),
    (b'{"messages": "caf\xe9"}', "byte 17 (0xe9) is not UTF-8"),
    ([HELLO], "a list, not an object."),
    ("Hello", "a string, not an object."),
    ({"question": "Hello"}, 'no field "messages" (fields there: question). A conversation is {"messages": '),
    ({}, "(fields there: none)"),
    ({"messages": HELLO, "instruction": "a"}, 'both "messages" and "instruction" are there'),
    ({"messages": "Hello"}, "messages is a string, not a list."),
    ({"messages": []}, "messages is an empty list."),
    ({"messages": ["Hello"]}, "messages[0] is a string. Write a message as"),
    ({"messages": [{"content": "Hello"}]}, "messages[0] lacks a role and a content."),
    ({"messages": [{"role": "human", "content": "Hello"}]}, "unknown role 'human'. Did you mean 'user'? The roles are"),
    ({"messages": [{"role": "asistant", "content": "Hello"}]}, "Did you mean 'assistant'?"),
    ({"messages": [{"role": 3, "content": "Hello"}]}, "The role of messages[0] is a number, not a string."),
    ({"messages": [user(None)]}, "The content of messages[0] is null, not a string."),
    ({"messages": [user(" \n")]}, "The content of messages[0] is empty."),
    ({"messages": [user("\ud800")]}, "is a lone surrogate (U+D800)"),
    (
        {"messages": [user("Hello"), {**assistant("Hi"), "tool_calls": [1]}]},
        'messages[1] has the unsupported field "tool_calls"',
    ),
    (
        {"messages": [user("Hello"), {**assistant("Hi"), "weight": 0.5}]},
        "The weight of messages[1] is 0.5; it must be 0",
    ),
    ({"messages": [user("Hello")]}, "no message in messages is the assistant's"),
    ({"messages": [*HELLO, user("Bye")]}, "the last message of messages is not answered."),
    ({"messages": [user("a"), user("b"), assistant("c")]}, "messages[1] is the user's, but the user has spoken just"),
    ({"messages": [*HELLO, assistant("c")]}, "messages[2] is the assistant's, but the assistant has spoken just"),
    ({"messages": [assistant("Hi")]}, "messages[0] is the assistant's, but the user speaks first."),
    (
        {"messages": [{"role": "system", "content": "s"}, assistant("Hi")]},
        "messages[1] is the assistant's, but the user",
    ),
    (
        {"messages": [*HELLO, {"role": "system", "content": "s"}, *HELLO]},
        "messages[2] is the system's, but only the first",
    ),
    ({"instruction": "Add."}, 'no field "output"'),
    ({"instruction": "", "output": "a"}, "The instruction is empty."),
    ({"instruction": "Add.", "input": [1], "output": "a"}, 'the field "input" is a list, not a string.'),
    ({"instruction": "Add.", "output": " "}, "The output is empty."),
]

PAIRS_THAT_ARE_NONE = [
    ({"prompt": "a", "chosen": "b"}, 'no field "rejected"'),
    ({"chosen": "b", "rejected": "c"}, 'no field "prompt"'),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "both answers are the same"),
    ({"prompt": "a", "chosen": "", "rejected": "b"}, 'The text "chosen" is empty.'),
    ({"prompt": "a", "chosen": "b", "rejected": 3}, '"chosen" is a string, but "rejected" is a number.'),
    ({"prompt": "a", "chosen": HELLO, "rejected": "c"}, '"rejected" is a string, but "chosen" is a list'),
    ({"prompt": [user("a")], "chosen": HELLO, "rejected": HELLO}, "prompt + chosen[1] is the user's"),
    ({"chosen": HELLO, "rejected": [user("Bye"), assistant("Hi")]}, "differ before their last answer"),
    (
        {"prompt": "Bye", "chosen": HELLO, "rejected": [user("Hello"), assistant("No")]},
        "the prompt is a text other than",
    ),
    (
        {"prompt": [user("a")], "chosen": [assistant("b"), *HELLO], "rejected": [assistant("b"), *HELLO]},
        "differ before their last answer",
    ),
    (
        {"chosen": [assistant("a")], "rejected": [assistant("b")]},
        "chosen[0] is the assistant's, but the user speaks first",
    ),
]

TEXTS_WITHOUT_LABEL = [
    ({"text": "a"}, 'no field "label" (fields there: text). A labelled text is {"text"'),
    ({"text": "", "label": 1}, "The text is empty."),
    ({"text": "a", "label": " "}, "The label is empty."),
    ({"text": "a", "label": 0.5}, "the label is a number; it must be a string or a whole number."),
    ({"text": "a", "label": True}, "the label is true or false; it must be"),
    ({"text": "a", "label": None}, "the label is null; it must be"),
]


@pytest.mark.parametrize(
    ("kind", "record", "problem"),
    [(Conversation, *case) for case in CONVERSATIONS_THAT_ARE_NONE]
    + [(PreferencePair, *case) for case in PAIRS_THAT_ARE_NONE]
    + [(LabeledText, *case) for case in TEXTS_WITHOUT_LABEL],
)
def test_a_line_that_is_no_example_is_named(kind, record, problem):
    with pytest.raises(DataError) as refused:
        read(kind, record)
    assert str(refused.value).startswith("chat.jsonl, line 3: ")
    assert problem in str(refused.value)
    assert refused.value.remedy


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "user", "assistant", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "prompt", "chosen", "rejected", "text", "label", "weight"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from(list(KINDS.values())))
def test_whatever_a_line_holds_it_is_an_example_or_a_clear_error(value, kind):
    try:
        found = read(kind, value)
    except DataError as error:
        problem = error.problem
    else:
        assert isinstance(found, kind)
        return
    assert str(HERE) in problem


def test_bytes_and_halves_of_characters_can_be_replaced():
    assert read(LabeledText, b'{"text": "caf\xe9 \\ud800", "label": 1}', "replace").text == "caf� �"
    with pytest.raises(ConfigError):
        read_examples(LabeledText, ["a.jsonl"], "ignore")


# Files


def test_files_folders_and_globs_are_read_once_each_in_order(write, tmp_path):
    line = '{{"text": "{}", "label": 1}}\n'.format
    write(**{"b.jsonl": "\ufeff" + line("b1") + "\n" + line("b2"), "a.jsonl": line("a"), "notes.txt": "no record"})
    with gzip.open(tmp_path / "c.jsonl.gz", "wb") as file:
        file.write(line("c").encode())
    found = read_examples(LabeledText, ["b.jsonl", "*.jsonl", "."])
    assert [(example.text, str(example.origin)) for example in found] == [
        ("b1", "b.jsonl, line 1"),
        ("b2", "b.jsonl, line 3"),
        ("a", "a.jsonl, line 1"),
        ("c", "c.jsonl.gz, line 1"),
    ]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("missing.jsonl", "missing.jsonl: no such file or folder."),
        ("notes.txt", "notes.txt: not a file of records by its name."),
        ("blank.jsonl", "blank.jsonl: no records, only blank lines."),
        ("empty.jsonl", "empty.jsonl: the file is empty."),
        ("-", "Examples cannot come through standard input"),
        ("*.json", "*.json: no file matches."),
        ("folder", "folder: the folder holds no such file (.jsonl, .ndjson, .parquet)."),
    ],
)
def test_sources_that_hold_no_examples_are_refused(write, tmp_path, source, problem):
    write(**{"notes.txt": "no record", "blank.jsonl": "\n \n", "empty.jsonl": ""})
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError) as refused:
        read_examples(LabeledText, [source])
    assert problem in str(refused.value)


# Sides


def labelled(*texts):
    return [LabeledText(text, "x", Origin("a.jsonl", number)) for number, text in enumerate(texts, 1)]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2), st.floats(0.01, 0.99))
def test_copies_are_on_one_side_and_no_side_is_empty(texts, fraction):
    if len(set(texts)) == 1:
        with pytest.raises(DataError, match="only one text"):
            part(labelled(*texts), fraction)
        return
    training, held_out = part(labelled(*texts), fraction)
    assert training
    assert held_out
    assert not {example.text for example in training} & {example.text for example in held_out}
    assert Counter(e.origin for e in training + held_out) == Counter(e.origin for e in labelled(*texts))


def test_the_share_held_out_is_met_and_more_examples_move_none():
    many = labelled(*map(str, range(2000)))
    training, held_out = part(many, 0.1)
    assert 150 < len(held_out) < 250
    fewer_training, fewer_held_out = part(many[:1000], 0.1)
    assert fewer_training == training[: len(fewer_training)]
    assert fewer_held_out == held_out[: len(fewer_held_out)]


def test_pairs_of_one_prompt_are_on_one_side():
    pairs = [PreferencePair(f"prompt {i % 7}", f"yes {i}", "no", Origin("a.jsonl", i)) for i in range(50)]
    sides = [{pair.prompt for pair in side} for side in part(pairs, 0.3)]
    assert sides[0].isdisjoint(sides[1])
    with pytest.raises(DataError, match="only one prompt in 8 pairs"):
        part([pair for pair in pairs if pair.prompt == "prompt 0"], 0.3)
    with pytest.raises(DataError, match=r"only one example \(a.jsonl, line 3\)"):
        part(pairs[3:4], 0.3)


def test_a_digest_stands_for_what_is_said_and_not_for_where():
    a = labelled("x", "y")
    elsewhere = [LabeledText(e.text, e.label, SimpleNamespace()) for e in a]
    assert digest(a) == digest(elsewhere) != digest(a[::-1])
    assert digest(a) != digest([a[0], LabeledText("y", "z", a[1].origin)])
    unlearned = {**assistant("Hi!"), "weight": 0}
    one, other = (read(Conversation, {"messages": [HELLO[0], last]}) for last in (HELLO[1], unlearned))
    assert digest([one]) != digest([other])
