"""The forms of examples that people bring: read from a small file field by field, or refused by name."""

from __future__ import annotations

import json

import pyarrow
import pytest
from pyarrow import parquet

from handloom.data.examples import Conversation, LabeledText, PreferencePair, read_examples
from handloom.data.omissions import Omissions
from handloom.errors import DataError
from handloom.tokenizer.chat import Message


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Write records to a file and read them as examples; what was left out is in `read.omitted`."""
    monkeypatch.chdir(tmp_path)

    def read(kind, *records, name="a.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        omissions = Omissions()
        found = read_examples(kind, [name], omissions=omissions)
        read.omitted = {reason: value.get("by", value["count"]) for reason, value in omissions.to_dict().items()}
        return found[0] if len(records) == 1 else found

    return read


def system(text):
    return Message("system", text)


def user(text):
    return Message("user", text)


def assistant(text, train=True):
    return Message("assistant", text, train)


def turns(*texts, sharegpt=False):
    names = [("from", "value"), ("human", "gpt")] if sharegpt else [("role", "content"), ("user", "assistant")]
    return [dict(zip(names[0], (names[1][n % 2], text), strict=True)) for n, text in enumerate(texts)]


def said(by, text):
    """A message of ShareGPT."""
    return {"from": by, "value": text}


def asked(*parts):
    """A question in parts, and its answer."""
    return [{"role": "user", "content": list(parts)}, *turns("", "c")[1:]]


def part(text, **more):
    return {"type": "text", "text": text, **more}


SHARED = turns("Hi", "Salut", sharegpt=True)
FRENCH = {
    "system": "Answer in French.",
    "history": [["Hi", "Salut"]],
    "instruction": "Good night",
    "output": "Bonne nuit",
}


def test_system_and_history_of_alpaca_are_read(read):
    """Both were dropped: the model would have learned to answer in French to whatever is said in English."""
    assert read(Conversation, FRENCH).messages == (
        system("Answer in French."),
        user("Hi"),
        assistant("Salut", train=False),
        user("Good night"),
        assistant("Bonne nuit"),
    )
    assert read.omitted == {"context": 1}


FORMS = {
    "messages": ({"messages": turns("a", "b")}, (user("a"), assistant("b"))),
    "a system beside messages": (
        {"system": "s", "messages": turns("a", "b")},
        (system("s"), user("a"), assistant("b")),
    ),
    "the system twice, alike": (
        {"system_prompt": "s", "messages": [{"role": "system", "content": "s"}, *turns("a", "b")]},
        (system("s"), user("a"), assistant("b")),
    ),
    "ShareGPT": ({"conversations": SHARED}, (user("Hi"), assistant("Salut"))),
    "ShareGPT, with a system and other names": (
        {"conversation": [said("system", "s"), said("user", "a"), said("chatgpt", "b")]},
        (system("s"), user("a"), assistant("b")),
    ),
    "messages under ShareGPT's name": ({"conversations": turns("a", "b")}, (user("a"), assistant("b"))),
    "prompt and completion": ({"prompt": "a", "completion": " b"}, (user("a"), assistant(" b"))),
    "prompt and completion of messages": (
        {"prompt": turns("a", "b", "c"), "completion": turns("", "d")[1:]},
        (user("a"), assistant("b", train=False), user("c"), assistant("d")),
    ),
    "parts of text": (
        {"messages": asked(part("a "), part("b", image=None))},
        (user("a b"), assistant("c")),
    ),
    "nothing where something may be": (
        {"instruction": "a", "input": None, "output": "b", "system": " ", "history": [], "tools": None, "images": []},
        (user("a"), assistant("b")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_conversation(read, form):
    record, expected = FORMS[form]
    assert read(Conversation, record).messages == expected
    assert "field" not in read.omitted


@pytest.mark.parametrize("name", ["input", "system", "system_prompt"])
@pytest.mark.parametrize("value", [0, False, [], 5, {}, ["x"], True])
def test_a_text_that_is_none_is_refused_whatever_it_is(read, name, value):
    """`0`, `false` and `[]` were dropped, `5` was an error."""
    with pytest.raises(DataError, match=rf'a.jsonl, line 1: the field "{name}" is .*, not a string'):
        read(Conversation, {"instruction": "a", "output": "b", name: value})


@pytest.mark.parametrize("value", [0, False, "x", [["a"]], [["a", "b", "c"]], [["a", 5]], ["ab"]])
def test_a_history_that_is_no_list_of_pairs_is_refused(read, value):
    with pytest.raises(DataError, match=r"a.jsonl, line 1: .*history"):
        read(Conversation, {"instruction": "a", "output": "b", "history": value})


def test_what_is_left_out_is_counted_by_field(read):
    rows = [{"messages": turns("a", str(n)), "id": n, "source": "web", "score": 0.5, "empty": None} for n in range(3)]
    rows[0]["messages"] = [{**message, "name": "Ann", "tool_calls": None} for message in rows[0]["messages"]]
    read(Conversation, *rows)
    assert read.omitted == {"field": {"id": 3, "source": 3, "score": 3, "name of messages": 2}}


def test_a_field_whose_name_is_no_text_can_be_counted_and_written_down(read):
    read(LabeledText, {"text": "a", "label": "b", "\ud800": 1})
    assert read.omitted == {"field": {"\\ud800": 1}}


def test_a_field_that_repeats_what_is_learned_is_no_second_example(read):
    """Thus UltraChat and UltraFeedback, whose prompt stands once more beside the messages."""
    assert read(Conversation, {"prompt": "a", "messages": turns("a", "b")}).messages == (user("a"), assistant("b"))
    chosen, rejected = turns("a", "b"), turns("a", "c")
    pair = read(
        PreferencePair, {"prompt": "a", "messages": chosen, "chosen": chosen, "rejected": rejected, "score_chosen": 8.5}
    )
    assert (pair.prompt, pair.chosen, pair.rejected) == ((user("a"),), "b", "c")
    assert read.omitted == {"field": {"messages": 1, "score_chosen": 1}}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}
CHANGED = [
    ({"messages": turns("a", "b"), "tools": [{"name": "f"}]}, 'the field "tools" cannot be learned'),
    ({"instruction": "a", "output": "b", "images": ["a.png"]}, 'the field "images" cannot be learned'),
    ({"instruction": "a", "output": "b", "context": "c"}, 'both "instruction" and "context" are there'),
    ({"messages": turns("a", "b"), "prompt": "c"}, 'both "messages" and "prompt" are there'),
    ({"messages": turns("a", "b"), "history": [["c", "d"]]}, 'both "messages" and "history" are there'),
    ({"prompt": "a", "completion": "b", "label": False}, '"label" are there'),
    ({"conversations": [said("system", "s"), *SHARED], "system": "t"}, "both the system's, and differ"),
    ({"messages": [*turns("a"), CALL]}, 'messages[1] has the unsupported field "tool_calls"'),
    ({"messages": [*turns("a"), {"role": "tool", "content": "b"}]}, "messages[1] is a turn of a tool ('tool')"),
    ({"messages": [*turns("a"), {"role": "function", "name": "f", "content": "b"}]}, "a turn of a tool ('function')"),
    ({"conversations": [*SHARED[:1], said("function_call", "{}")]}, "conversations[1] is a turn of a tool"),
    ({"conversations": [*SHARED, said("observation", "{}")]}, "[2] is a turn of a tool ('observation')"),
    ({"conversations": SHARED, "tools": "[]x"}, 'the field "tools" cannot be learned'),
    ({"conversations": [{"from": "human"}]}, 'conversations[0] lacks the field "value".'),
    ({"conversations": [said("narrator", "x")]}, "unknown role 'narrator'"),
    ({"messages": asked(part("a"), {"type": "image_url"})}, "number 1, that is not text (image_url)"),
    ({"messages": asked(part("a", image="x"))}, "that is not text (image)"),
    ({"messages": asked("a")}, "that is not text (a string)"),
    ({"messages": asked()}, "The content of messages[0] is empty."),
    ({"prompt": "a", "completion": turns("b", "c")}, "prompt + completion[1] is the user's, but the user has spoken"),
    ({"prompt": "a"}, 'no field "completion"'),
]  # fmt: skip


@pytest.mark.parametrize(("record", "problem"), CHANGED, ids=[problem for _, problem in CHANGED])
def test_what_would_mean_something_else_is_refused_by_name_and_line(read, record, problem):
    with pytest.raises(DataError) as refused:
        read(Conversation, {"messages": turns("fine", "yes")}, record)
    assert refused.value.problem.startswith("a.jsonl, line 2: ")
    assert problem in refused.value.problem
    assert refused.value.remedy


PAIRS = {
    "ShareGPT": {"conversations": SHARED[:1], "chosen": said("gpt", "b"), "rejected": said("gpt", "c")},
    "ShareGPT, answers in lists": {
        "conversations": SHARED[:1], "chosen": [said("gpt", "b")], "rejected": [said("gpt", "c")]
    },
    "ShareGPT, answers in texts": {"conversations": SHARED[:1], "chosen": "b", "rejected": "c"},
    "Alpaca": {"instruction": "Hi", "input": "", "chosen": "b", "rejected": "c"},
    "whole conversations of ShareGPT": {"chosen": [*SHARED[:1], said("gpt", "b")], "rejected": turns("Hi", "c")},
}  # fmt: skip


@pytest.mark.parametrize("form", PAIRS)
def test_every_form_of_a_pair(read, form):
    pair = read(PreferencePair, PAIRS[form])
    assert (pair.prompt, pair.chosen, pair.rejected) == ((user("Hi"),), "b", "c")
    pair = read(PreferencePair, {**PAIRS[form], "system": "s"})
    assert pair.prompt == (system("s"), user("Hi"))
    assert read.omitted == {}


def test_a_system_beside_a_plain_text_cannot_be_learned(read):
    with pytest.raises(DataError, match='"system" are there'):
        read(PreferencePair, {"prompt": "a", "chosen": "b", "rejected": "c", "system": "s"})
    with pytest.raises(DataError, match='both "label" and "context" are there'):
        read(LabeledText, {"text": "a", "label": "b", "context": "c"})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_tables_hold_examples_of_every_kind(write, name):
    def table(*rows):
        cells = [('"{}"'.format(cell.replace('"', '""')) for cell in row) for row in rows]
        write(**{name: "".join(("\t" if name == "a.tsv" else ",").join(row) + "\r\n" for row in cells)})

    table(("text", "label", "id"), ('Buy "now",\nonly today', "spam", "7"), ("See you", "1", ""))
    found = read_examples(LabeledText, [name])
    assert [(e.text, e.label, str(e.origin)) for e in found] == [
        ('Buy "now",\nonly today', "spam", f"{name}, line 2"),
        ("See you", "1", f"{name}, line 4"),
    ]
    table(("instruction", "input", "output", "system"), ("Add.", "", "6", ""), ("Add.", "1 2", "3", "Be brief."))
    assert [e.messages for e in read_examples(Conversation, [name])] == [
        (user("Add."), assistant("6")),
        (system("Be brief."), user("Add.\n\n1 2"), assistant("3")),
    ]
    table(("prompt", "chosen", "rejected"), ("a", "b", "c"))
    assert read_examples(PreferencePair, [name])[0].chosen == "b"
    table(("text", "label"), ("a", "spam"), ("b", ""))
    with pytest.raises(DataError, match=f"{name}, line 3: The label is empty"):
        read_examples(LabeledText, [name])


def test_parquet_and_lists_hold_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"conversations": SHARED, "id": n, "system": None} for n in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for name in ("a.parquet", "a.json"):
        found = read_examples(Conversation, [name])
        assert [e.messages for e in found] == [(user("Hi"), assistant("Salut"))] * 3
    tools = [*rows, {"conversations": [*SHARED, {"from": "tool", "value": "x"}], "id": 3, "system": None}]
    parquet.write_table(pyarrow.Table.from_pylist(tools), "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet, row 4: conversations\[2\] is a turn of a tool"):
        read_examples(Conversation, ["a.parquet"])
