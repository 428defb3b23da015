"""The linter finds every fault at its place, nothing in clean data, and parts data as a run does."""

from __future__ import annotations

import io
import json
import random
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handloom.cli.flags import in_flags
from handloom.cli.main import app
from handloom.data.chunking import PIECE
from handloom.data.examples import (
    Conversation,
    ExampleEncoder,
    LabeledText,
    PreferencePair,
    read_examples,
    split_fraction,
    validation_mask,
)
from handloom.data.lint import DataStats, LintSettings, grouped, lint
from handloom.data.lint.rules import NOTE, RULES, SEVERITIES, Finding, counted
from handloom.data.schema import Record
from handloom.data.text_io import Origin, ReadOptions
from handloom.data.tokenized import prepare
from handloom.errors import ConfigError, DataError
from handloom.tokenizer.chat import header_of


class Letters:
    """A tokenizer of one token a character: quick, and easy to count."""

    vocab_size, eos_token_id, fingerprint = 257, 256, "letters"

    def encode(self, text):
        return [ord(c) % 256 for c in text]

    def encode_batch(self, texts):
        return [self.encode(text) for text in texts]


def asked(question, answer, **more):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


def texted(text, label):
    return {"text": text, "label": label}


CLEAN = {
    "sft": [asked(f"How many threads has a number {n}?", f"It has {n * 7} of them.") for n in range(30)],
    "dpo": [{"prompt": f"The number {n} is", "chosen": f" {n * 3}.", "rejected": f" {n}?"} for n in range(30)],
    "classify": [texted(f"The letter {n} is about {n * 5}", ("spam", "ham")[n % 2]) for n in range(60)],
    "text": [{"text": f"Story {n}. {n * 3} threads were woven.\nAnd then {n * 11} more."} for n in range(40)],
}


def json_lines(records):
    lines = (
        line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode("utf-8", "replace")
        for line in records
    )
    return b"".join(line + b"\n" for line in lines)


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Write files into the current folder, and give what is found in them, and what was seen."""
    monkeypatch.chdir(tmp_path)

    def check(files, data=None, tokenizer=None, **settings):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json_lines(content))
        seen = DataStats()
        chosen = LintSettings(**{"context_length": 200 if settings.get("task", "text") != "text" else 8, **settings})
        found = list(lint(data or sorted(files), tokenizer or Letters(), chosen, seen))
        return found, seen

    return check


def shown(findings):
    return [(finding.kind, finding.place.short if finding.place else None) for finding in findings]


def chat(*records, **settings):
    """A file of clean conversations, and then these."""
    return "sft", {"a.jsonl": [*CLEAN["sft"], *records]}, settings


def pairs(*records, **settings):
    return "dpo", {"a.jsonl": [*CLEAN["dpo"], *records]}, settings


def labels(*records, **settings):
    return "classify", {"a.jsonl": [*CLEAN["classify"], *records]}, settings


def stories(*records, **settings):
    return "text", {"a.jsonl": [*CLEAN["text"], *records]}, settings


def page(content, **settings):
    """A text file beside clean records."""
    return "text", {"a.jsonl": CLEAN["text"], "b.txt": content}, settings


LONG = "A weaver told us at the old house by the sea that the threads of that loom are longer than all the others "


def other_side(conversation, make):
    """What `make` gives for the first number with which it lies on the other side than a conversation.

    The side hangs on a hash, so that some numbers have to be tried.
    """

    def held_out(record):
        return split_fraction(Conversation.of(Record(record, Origin("a.jsonl", 1), ReadOptions()))) < 0.1

    return next(record for n in range(500) if held_out(record := make(n)) != held_out(conversation))


def spaced(text, n):
    """`text` with n spaces more after its first word."""
    return text.replace(" ", " " * (n + 2), 1)


QUESTION = "Which of these looms is the one you mean?"
ORIGINAL = asked(QUESTION, "The old one.")
COPY_ACROSS = other_side(ORIGINAL, lambda n: asked(spaced(QUESTION, n), "the OLD one."))
COPY_HERE = other_side(COPY_ACROSS, lambda n: asked(spaced(QUESTION, n), "The old one."))
ANSWER_ACROSS = other_side(ORIGINAL, lambda n: asked(QUESTION, f"The {n}th one."))
LONGER = asked(LONG, LONG + "so.")
SIMILAR_ACROSS = other_side(LONGER, lambda n: asked(f"{n}: {LONG}", LONG + "so."))
SIMILAR_HERE = other_side(SIMILAR_ACROSS, lambda n: asked(f"{n}: {LONG}", LONG + "so."))

MARKED = b"\xef\xbb\xbf" + json_lines(CLEAN["text"])
TORN = "text", {"a.jsonl": CLEAN["text"], "b.jsonl.gz": b"\x1f\x8b\x08"}, {}
ONE_BY_DOCUMENTS = "text", {"b.txt": b"One. " * 99}, {"split": "documents"}
TWO_TOKENS_HELD_OUT = "text", {"b.txt": b"One two. " * 9}, {"validation_fraction": 0.01}

CAUGHT = {
    # What a run would stop at
    "no such file": ("unreadable", "b.jsonl", chat(data=["a.jsonl", "b.jsonl"])),
    "an empty file": ("unreadable", "b.txt", page(b"")),
    "a binary file": ("unreadable", "b.txt", page(b"PNG\0\0")),
    "a torn gzip file": ("unreadable", "b.jsonl.gz", TORN),
    "blank lines only": ("no-data", None, ("sft", {"a.jsonl": b"\n\n"}, {})),
    "no text": ("no-data", None, ("text", {"a.jsonl": [{"text": ""}]}, {})),
    "nothing short enough": ("no-data", None, labels(context_length=3, overlong="skip")),
    "no JSON": ("malformed", "a.jsonl:31", chat(b'{"messages": [')),
    "a list": ("malformed", "a.jsonl:31", chat([1])),
    "an unknown role": ("malformed", "a.jsonl:31", chat({"messages": [{"role": "human", "content": "Hi"}]})),
    "two answers alike": ("malformed", "a.jsonl:31", pairs({"prompt": "a", "chosen": "b", "rejected": "b"})),
    "a text that is missing": ("malformed", "a.jsonl:41", stories({"body": "Hi"})),
    "a text that is none": ("malformed", "a.jsonl:61", labels({"text": 5, "label": "ham"})),
    "Latin-1 in a record": ("encoding", "a.jsonl:31", chat(b'{"instruction": "Caf\xe9?", "output": "Yes."}')),
    "a lone surrogate": ("encoding", "a.jsonl:31", chat(json.dumps(asked("\ud83d?", "Yes.")).encode())),
    "Latin-1 in a text": ("encoding", "b.txt:2", page(b"Un\ncaf\xe9\n")),
    "a white answer": ("empty", "a.jsonl:31", chat(asked("Which?", " \n\t"))),
    "no messages": ("empty", "a.jsonl:31", chat({"messages": []})),
    "an empty preference": ("empty", "a.jsonl:31", pairs({"prompt": "a", "chosen": "", "rejected": "b"})),
    "an empty text": ("empty", "a.jsonl:61", labels({"text": "", "label": "ham"})),
    "no label": ("no-label", "a.jsonl:61", labels({"text": "Hello"})),
    "a label of null": ("no-label", "a.jsonl:61", labels({"text": "Hello", "label": None})),
    "a blank label": ("no-label", "a.jsonl:61", labels({"text": "Hello", "label": " "})),
    "no assistant": ("no-assistant", "a.jsonl:31", chat({"messages": [{"role": "user", "content": "Hello?"}]})),
    "an answer of no weight": (
        "nothing-learned",
        "a.jsonl:31",
        chat({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}),
    ),
    "an answer behind the end": ("nothing-learned", "a.jsonl:31", chat(asked("so " * 99, "Yes."), overlong="truncate")),
    "a difference behind the end": (
        "nothing-learned",
        "a.jsonl:31",
        pairs({"prompt": "a", "chosen": "b" * 201 + "c", "rejected": "b" * 201}, overlong="truncate"),
    ),
    "a long conversation": ("overlong", "a.jsonl:31", chat(asked("Why?", "Because. " * 30))),
    "a long pair": ("overlong", "a.jsonl:31", pairs({"prompt": "a", "chosen": "b" * 300, "rejected": "c"})),
    "a long text": ("overlong", "a.jsonl:61", labels(texted("long " * 50, "ham"))),
    "one label": ("one-label", None, ("classify", {"a.jsonl": CLEAN["classify"][::2]}, {})),
    "one example": ("one-side", None, ("sft", {"a.jsonl": CLEAN["sft"][:1]}, {})),
    "one example, twice": ("one-side", None, ("sft", {"a.jsonl": [ORIGINAL, ORIGINAL]}, {})),
    "a text shorter than a window": ("one-side", None, ("text", {"b.txt": b"Too short."}, {"context_length": 64})),
    "one document to be parted by documents": ("one-side", None, ONE_BY_DOCUMENTS),
    "too little to validate with": ("one-side", None, TWO_TOKENS_HELD_OUT),
    # What its validation would lie about
    "a copy on the other side": ("copy-across", "a.jsonl:32", chat(ORIGINAL, COPY_ACROSS)),
    # What it would learn
    "nearly a copy on the other side": ("similar-across", "a.jsonl:32", chat(LONGER, SIMILAR_ACROSS,
    context_length=999)),
    "a question on both sides": ("question-across", "a.jsonl:32", chat(ORIGINAL, ANSWER_ACROSS)),
    "an exact copy": ("copy", "a.jsonl:31", chat(CLEAN["sft"][3])),
    "an exact copy of a pair": ("copy", "a.jsonl:31", pairs(CLEAN["dpo"][3])),
    "an exact copy of a document": ("copy", "a.jsonl:41", stories(CLEAN["text"][3])),
    "a copy on the same side": ("near-copy", "a.jsonl:32", chat(ORIGINAL, COPY_HERE)),
    "two labels": ("label-conflict", "a.jsonl:61", labels(texted("The letter 0 is about 0", "ham"))),
    "two labels but for case": ("label-conflict", "a.jsonl:61", labels(texted("the letter 0 is ABOUT 0", "ham"))),
    "a rare label": ("rare-label", "a.jsonl:61", labels(texted("Hello", "eggs"))),
    "a label on one side": ("label-side", None, labels(*(texted(f"Eggs for {n} guests", "eggs") for n in (2, 4)))),
    "many of a label": ("unbalanced", None, labels(*CLEAN["classify"][::2] * 20)),
    "a document of blanks": ("blank", "a.jsonl:41", stories({"text": " \n \t"})),
    "a special token": ("special-token", "a.jsonl:31", chat(asked("Say <|im_start|> now.", "No."))),
    "the template's own turn": ("special-token", "a.jsonl:31", chat(asked("Say:\nAssistant:\nyes", "No."))),
    "a bell": ("control", "b.txt:2:5", page(b"One\nTwo \x07three\n")),
    "a bell in a record": ("control", "a.jsonl:31", chat(asked("Ring \x07.", "Yes."))),
    "a replacement character": ("replacement", "b.txt:1:4", page("Caf\ufffd and milk.".encode())),
    "mojibake": ("mojibake", "b.txt:1:4", page("CafÃ© and milk.".encode())),
    "a turn of direction": ("bidi", "a.jsonl:61", labels(texted("One \u202eeno", "ham"))),
    # What is good to know
    "nearly a copy on the same side": ("similar", "a.jsonl:32", chat(LONGER, SIMILAR_HERE, context_length=999)),
    "a zero-width space": ("invisible", "b.txt:1:4", page("One\u200btwo three.".encode())),
    "an empty document": ("empty-document", "a.jsonl:41", stories({"text": ""})),
    "mixed line ends": ("line-ends", "b.txt", page(b"One\r\ntwo\nthree\n")),
    "old line ends among new ones": ("line-ends", "b.txt", page(b"One\rtwo\nthree\n")),
    "a byte order mark": ("bom", "b.txt", page(b"\xef\xbb\xbfOne two three\n")),
    "a byte order mark before records": ("bom", "a.jsonl", ("text", {"a.jsonl": MARKED}, {})),
}  # fmt: skip


def test_every_kind_has_a_case():
    assert {kind for kind, _, _ in CAUGHT.values()} == set(RULES)


@pytest.mark.parametrize("case", CAUGHT)
def test_it_is_caught_at_its_place_and_nothing_else_is(check, case):
    kind, place, (task, files, settings) = CAUGHT[case]
    found, _ = check(files, **{"task": task, **settings})
    assert (kind, place) in shown(found)
    also = {
        "a rare label": {"unbalanced"},
        "no text": {"empty-document"},
        "nothing short enough": {"overlong"},
        "a label on one side": {"unbalanced"},
        "a special token": {"special-token"},
        "many of a label": {"copy"},
        "one example, twice": {"copy"},
        "two labels but for case": {"copy-across"},
    }
    assert {finding.kind for finding in found} <= {kind, *also.get(case, ())}
    for finding in found:
        assert finding.severity in SEVERITIES
        assert finding.detail
        assert finding.remedy.endswith((".", "?"))
        assert "{" not in finding.to_dict()["detail"]


@pytest.mark.parametrize("task", CLEAN)
def test_clean_data_is_clean(check, task):
    found, seen = check({"a.jsonl": CLEAN[task]}, task=task)
    assert found == []
    assert seen.texts == len(seen.lengths) == len(CLEAN[task])
    assert sum(seen.sides) == len(CLEAN[task])


def test_nothing_is_wrong_with_other_scripts_and_emoji(check):
    texts = [
        "Un café à Noël, «CAFÉ» et “MENÜ”.\nÀ bientôt…",
        "می‌خواهم بروم.",  # a joiner that Persian needs
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in "gbeng") + "\U000e007f",  # England's flag
        "織機とは何ですか。",
        "Привет, мир! Ñandú, Ångström, Ärger",
        "a < b > c, [1], <b>bold</b>, ## Heading\n\ttabbed",
    ]
    found, _ = check({"a.jsonl": [*CLEAN["text"], *({"text": text} for text in texts)]})
    assert found == []


# The same as a run


def faulty(task):
    """Records, of which some are none."""
    good = {
        "sft": st.builds(asked, st.text(min_size=1), st.text(min_size=1)),
        "dpo": st.builds(lambda a, b, c: {"prompt": a, "chosen": b, "rejected": c}, *[st.text()] * 3),
        "classify": st.builds(texted, st.text(), st.sampled_from(["spam", "ham", "", None, 3, 0.5])),
    }[task]
    return st.lists(
        good | st.sampled_from([b"{", b"[]", b'{"text": "\xff", "label": 1}', b" ", {}]), min_size=1, max_size=8
    )


TYPES = {"sft": Conversation, "dpo": PreferencePair, "classify": LabeledText}
SLOW_IS_FINE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("task", TYPES)
@SLOW_IS_FINE
@given(data=st.data())
def test_it_finds_an_error_where_a_run_would_stop_and_else_parts_the_same(check, task, data):
    records = data.draw(faulty(task))
    overlong = data.draw(st.sampled_from(["error", "truncate", "skip"]))
    context_length = data.draw(st.integers(10, 60))
    fraction = data.draw(st.floats(0.05, 0.95))
    found, seen = check(
        {"a.jsonl": records}, task=task, context_length=context_length, overlong=overlong, validation_fraction=fraction
    )
    stops = [finding for finding in found if finding.severity == "error" and finding.kind != "copy-across"]
    try:
        examples = read_examples(TYPES[task], ["a.jsonl"])
        fitted = ExampleEncoder(context_length, overlong).encode(examples, Letters())
        mask = validation_mask([example for example, _ in fitted], fraction)
        sides = (mask.count(False), mask.count(True))
    except DataError as error:
        assert stops
        if ", line " in error.problem and "only one" not in error.problem:
            line = error.problem.partition(", line ")[2].partition(":")[0]
            assert f"a.jsonl:{line}" in [finding.place.short for finding in stops if finding.place]
        return
    if task == "classify" and len({example.label for example, _ in fitted}) == 1:
        assert [finding.kind for finding in stops] == ["one-label"]
    else:
        assert stops == []
    assert seen.sides == list(sides)
    assert seen.texts == len(examples)


@SLOW_IS_FINE
@given(
    faults=st.dictionaries(
        st.integers(0, 29),
        st.sampled_from([(b"{", "malformed"), (asked("a", " "), "empty"), (asked("\x07", "b"), "control")]),
        max_size=6,
    )
)
def test_each_planted_fault_is_found_at_its_line(check, faults):
    records = list(CLEAN["sft"])
    for line, (record, _) in faults.items():
        records[line] = record
    found, _ = check({"a.jsonl": records}, task="sft")
    wanted = {(kind, f"a.jsonl:{line + 1}") for line, (_, kind) in faults.items()}
    assert {each for each in shown(found) if each[0] in ("malformed", "empty", "control")} == wanted


@pytest.mark.parametrize("split", ["auto", "documents", "tail"])
def test_running_text_is_counted_as_it_is_prepared(check, gpt2, split):
    records = [*CLEAN["text"], *CLEAN["text"][:5], {"text": ""}, {"text": "Caf\xe9 \U0001f600 " * 50}]
    found, seen = check({"a.jsonl": records}, tokenizer=gpt2, split=split, validation_fraction=0.2)
    prepared = prepare(["a.jsonl"], gpt2, split=split, validation_fraction=0.2)
    report = prepared.report
    assert seen.tokens == [report.train_tokens, report.validation_tokens]
    assert seen.lengths.to_dict()["tokens"] == report.train_tokens + report.validation_tokens
    assert seen.sides == [report.train_documents, report.validation_documents]
    assert seen.policy == report.split
    counts = {group.kind: group.count for group in grouped(found)}
    assert seen.omissions.to_dict() == report.omitted
    assert counts == {"copy": report.omitted["duplicate"]["count"], "empty-document": report.omitted["empty"]["count"]}


def test_all_faults_of_a_file_are_found_in_one_go(check):
    lines = [b"{", b"[]", b"nope"] * 40
    found, seen = check({"a.jsonl": [*lines, *CLEAN["sft"]]}, task="sft")
    assert shown(found) == [("malformed", f"a.jsonl:{n}") for n in range(1, 121)]
    assert seen.texts == 30
    (group,) = grouped(found)
    assert (group.count, len(group.first), len(grouped(found, None)[0].first)) == (120, 3, 120)


@pytest.mark.parametrize("separator", ["<|endoftext|>", ""])
def test_a_file_that_cannot_be_read_is_no_empty_document(check, separator):
    bad = {"a.txt": b'{"a": 1}', "b.txt": b"One\0two", "c.txt.gz": b"no gzip"}
    found, seen = check(
        {**bad, "d.txt": b"\xef\xbb\xbf", "e.txt": b"One two."}, task="text", document_separator=separator
    )
    shown_of = [(kind, place.split(":")[0]) for kind, place in shown(found) if place]
    assert [place for kind, place in shown_of if kind == "unreadable"] == list(bad)
    assert [place for kind, place in shown_of if kind == "empty-document"] == ["d.txt"]
    assert seen.omissions.to_dict()["empty"] == {"count": 1, "first": ["d.txt"]}
    assert seen.texts == 2
    found, _ = check(bad, data=list(bad), task="text", document_separator=separator)
    (nothing,) = [each.detail for each in found if each.kind == "no-data"]
    assert nothing == "No text in a.txt, b.txt, c.txt.gz: no document could be read"


def test_a_source_that_cannot_be_opened_is_refused_when_it_is_the_only_one(check):
    for task in CLEAN:
        with pytest.raises(DataError, match="no such file"):
            check({}, data=["nothing.jsonl"], task=task)
    with pytest.raises(DataError, match="No data was named"):
        check({}, task="text")
    with pytest.raises(DataError, match="No data was named"):
        check({}, task="classify")
    with pytest.raises(DataError, match="not a file of records"):
        check({"a.txt": b"Hello"}, task="classify")


def test_bytes_that_a_run_replaces_are_a_warning(check):
    found, _ = check(page(b"Un caf\xe9 noir\n")[1], encoding_errors="replace")
    assert [(finding.kind, finding.severity) for finding in found] == [("encoding", "warning")]
    line = json.dumps(asked("\ud83d?", "Yes.")).encode()
    found, seen = check(chat(line)[1], task="sft", encoding_errors="replace")
    assert [(finding.kind, finding.severity) for finding in found] == [("encoding", "warning")]
    assert seen.texts == 31


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"task": "clasify"}, "Did you mean 'classify'"),
        ({"overlong": "truncat"}, "Did you mean 'truncate'"),
        ({"context_length": 0}, "context_length is 0"),
        ({"validation_fraction": 0}, "above 0"),
        ({"validation_fraction": 1.0}, "below 1"),
    ],
)
def test_a_setting_without_meaning_is_refused(bad, problem):
    with pytest.raises(ConfigError, match=problem):
        LintSettings(**bad)


@pytest.mark.parametrize("bad", [{"split": "half"}, {"encoding_errors": "ignore"}])
def test_what_reading_refuses_is_refused(check, bad):
    with pytest.raises(ConfigError):
        check({"a.jsonl": CLEAN["text"]}, **bad)


# Places


def test_lines_and_columns_are_those_of_the_file_across_pieces(check):
    text = "word word\n" * (PIECE // 5) + "one\r\ntwo \x07\rthree \x07" + " x" * PIECE + " \x07\n"
    found, _ = check({"a.txt": text.encode()}, data=["a.txt"])
    whole = text.replace("\r\n", "\n").replace("\r", "\n")
    at = [n for n, c in enumerate(whole) if c == "\x07"]
    wanted = [f"a.txt:{whole.count(chr(10), 0, n) + 1}:{n - whole.rfind(chr(10), 0, n)}" for n in at]
    assert [finding.place.short for finding in found if finding.kind == "control"] == wanted


def test_the_longest_is_named_though_it_is_not_among_the_first(check):
    records = [asked("Why?", "so " * (100 + n)) for n in (0, 1, 2, 50, 3)]
    found, _ = check({"a.jsonl": records}, task="sft")
    (group,) = [group for group in grouped(found) if group.kind == "overlong"]
    assert group.worst.place.short == "a.jsonl:4"
    assert group.worst.size == len("".join(header_of(r) for r in ("user", "assistant")) + "Why?" + "so " * 150) + 3


def test_texts_are_not_kept(check):
    chance = random.Random(1)
    records = [texted(" ".join(str(chance.random()) for _ in range(2000)), "ab"[n % 2]) for n in range(62)]
    peaks = []
    for some in (records[:2], records):
        content = json_lines(some)
        tracemalloc.start()
        check({"a.jsonl": content}, task="classify", context_length=10**6)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < len(content) / 10


def test_what_is_seen_is_told_in_plain_values(check):
    _, seen = check({"a.jsonl": CLEAN["classify"]}, task="classify")
    told = json.loads(json.dumps(seen.to_dict()))
    assert {label: sum(numbers.values()) for label, numbers in told["labels"].items()} == {"ham": 30, "spam": 30}
    assert sum(told["languages"].values()) == told["texts"] == told["lengths"]["texts"] == 60
    assert sum(told["split"].values()) == 60


# Groups of findings


def test_the_worst_kinds_come_first_with_their_numbers():
    def some(kind, n):
        return [Finding(kind, "x", Origin("a", i)) for i in range(n)]

    assert grouped([]) == []
    groups = grouped([*some("control", 2), *some("bom", 1), *some("no-label", 1), *some("one-label", 1)])
    titles = ["1 text without a label", "all texts have one label", "2 control characters", "1 byte order mark"]
    assert [group.title for group in groups] == titles
    assert counted(groups) == "2 errors, 2 warnings and 1 note"
    assert counted(groups[2:3]) == "2 warnings"


def test_the_documentation_names_every_kind():
    page = (Path(__file__).resolve().parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")
    for rule in RULES.values():
        assert f"| {rule.title(2).removeprefix('2 ')} | {in_flags(rule.remedy, app)} |" in page


def test_turns_that_are_only_context_are_no_question_of_their_own(check):
    """A history that many conversations share is not asked on both sides: its answers are not learned."""
    records = [
        {"history": [["Hi", "Salut"]], "instruction": f"What is {n} in French?", "output": f"It is {n * 7}.", "id": n}
        for n in range(40)
    ]
    found, seen = check({"a.jsonl": records}, task="sft")
    assert [finding.kind for finding in found if finding.severity != NOTE] == []
    assert seen.omissions.to_dict() == {"field": {"count": 40, "by": {"id": 40}}, "context": {"count": 40}}


def test_every_form_of_file_is_checked_to_its_end(check):
    csv = b'\xef\xbb\xbftext,label\n"a,b",x\nlone\ncaf\xe9,y\n,x\n'
    found, seen = check({"a.csv": csv}, task="classify")
    places = {(finding.kind, finding.place.short) for finding in found if finding.place}
    assert {("bom", "a.csv"), ("malformed", "a.csv:3"), ("encoding", "a.csv:4"), ("empty", "a.csv:5")} <= places
    assert seen.texts == 2
    rows = b'[{"text": "a", "label": "x"}, {"text": 5, "label": "x"},\n {"text": "b", "label": "y"}, {"text": "c'
    found, seen = check({"a.json": rows}, data=["a.json"], task="classify")
    places = {(finding.kind, finding.place.short) for finding in found if finding.place}
    assert {("malformed", "a.json:1:31"), ("malformed", "a.json:2")} <= places
    assert seen.texts == 2


def test_a_mark_at_the_beginning_of_standard_input_is_told_by_its_name(check, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + b"One two three. " * 40)))
    found, _ = check({}, data=["-"])
    assert ("bom", "standard input") in shown(found)
