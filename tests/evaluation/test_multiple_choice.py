"""Questions are read in their published forms, and the likeliest choice is the one a plain loop finds."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handloom.errors import DataError
from handloom.evaluation.benchmarks import TASKS, BenchmarkItem, detect, read_items
from handloom.evaluation.multiple_choice import add_up, as_json, encode_pair, item_json, score_items, scores
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer import load_tokenizer

HELLASWAG = {
    "activity_label": "Baking cookies",
    "ctx_a": "A bowl stands [there] on a table.",
    "ctx_b": "the Baker",
    "ctx": "A bowl stands [there] on a table. the Baker",
    "endings": ["stirs.  [title] It rises.", "[substeps] sleeps.", "flies away.", "sings."],
    "label": 2,
}
ARC = {
    "question": {"stem": "What is wet?", "choices": [{"text": "sand", "label": "A"}, {"text": "water", "label": "B"}]},
    "answerKey": "B",
}
FLAT_ARC = {
    "question": "What is wet?",
    "choices": {"text": ["sand", "water", "fire"], "label": ["1", "2", "3"]},
    "answerKey": "3",
}
PIQA = {"goal": "Open a jar", "sol1": "Turn it.", "sol2": "Eat it.", "label": 0}
LAMBADA = {"text": "He looked up at the\nnight sky"}
CHOICE = {"context": "One, two,", "choices": ["three", "four"], "answer": "four"}


@pytest.fixture(scope="module")
def lm(model, byte_tokenizer):
    return LanguageModel(model, byte_tokenizer)


@pytest.fixture
def write(tmp_path):
    def to_file(*records, name="items.jsonl"):
        path = tmp_path / name
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode("utf-8")
        path.write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
        return path

    return to_file


def test_each_published_form_is_put_as_the_harness_puts_it(write):
    def only(record, task):
        (item,) = read_items(write(record), task)
        return item.context, [item.continuation(at) for at in range(len(item.choices))], item.answer

    assert only(HELLASWAG, "hellaswag") == (
        "Baking cookies: A bowl stands on a table. The baker",
        [" stirs. . It rises.", "  sleeps.", " flies away.", " sings."],
        2,
    )
    assert only(HELLASWAG, "hellaswag-plain") == (
        HELLASWAG["ctx"],
        [f" {ending}" for ending in HELLASWAG["endings"]],
        2,
    )
    assert only(ARC, "arc") == ("Question: What is wet?\nAnswer:", [" sand", " water"], 1)
    assert only(FLAT_ARC, "arc") == ("Question: What is wet?\nAnswer:", [" sand", " water", " fire"], 2)
    assert only(PIQA, "piqa") == ("Question: Open a jar\nAnswer:", [" Turn it.", " Eat it."], 0)
    assert only(LAMBADA, "lambada") == ("He looked up at the\nnight", [" sky"], 0)
    assert only(CHOICE, "choice") == ("One, two,", [" three", " four"], 1)


def test_what_a_file_holds_is_seen_by_its_fields(write, tmp_path):
    for record, task in (
        (HELLASWAG, "hellaswag"), (ARC, "arc"), (FLAT_ARC, "arc"), (PIQA, "piqa"), (CHOICE, "choice"),
        (LAMBADA, "text"),
    ):  # fmt: skip
        assert detect(write(record)) == task
        assert detect(write(record, name="items.jsonl.gz")) == task
    assert detect(tmp_path / "fox.txt") == "text"
    assert detect(tmp_path) == "text"


@pytest.mark.parametrize("name", ["Q.JSON", "q.csv", "q.tsv"])
def test_questions_may_stand_in_a_list_or_a_table(tmp_path, name):
    """Of a list in `.json` the perplexity of its JSON was measured."""
    rows, between = [PIQA, {**PIQA, "label": 1}], "\t" if name == "q.tsv" else ","
    table = "\n".join(between.join(map(str, row)) for row in (PIQA, *(row.values() for row in rows)))
    (tmp_path / name).write_text(json.dumps(rows, indent=1) if name == "Q.JSON" else table, encoding="utf-8")
    assert detect(tmp_path / name) == "piqa"
    items = list(read_items(tmp_path / name, "piqa"))
    assert [item.answer for item in items] == [0, 1]
    assert items[0].choices == ("Turn it.", "Eat it.")


@pytest.mark.parametrize(("answer", "number"), [(1, 1), ("1", 1), ("B", 1), ("four", 1), ("three", 0), ("A", 0)])
def test_a_plain_answer_may_be_a_number_a_letter_or_the_choice(write, answer, number):
    (item,) = read_items(write({**CHOICE, "answer": answer}), "choice")
    assert item.answer == number


def test_white_space_that_is_there_is_not_doubled(write):
    for record in ({**CHOICE, "context": "One, two, "}, {**CHOICE, "choices": [" three", " four"], "answer": 1}):
        (item,) = read_items(write(record), "choice")
        assert (item.context + item.continuation(1)) == "One, two, four"


def test_labels_may_be_in_a_file_of_their_own(write, tmp_path):
    record = {key: value for key, value in PIQA.items() if key != "label"}
    labels = tmp_path / "labels.lst"
    labels.write_text("1\n0\n1\n", encoding="utf-8")
    path = write(record, record, record)
    assert [item.answer for item in read_items(path, "piqa", labels)] == [1, 0, 1]
    assert [item.answer for item in read_items(path, "piqa", labels, limit=2)] == [1, 0]


@pytest.mark.parametrize(
    ("task", "record", "told"),
    [
        ("hellaswag", {**HELLASWAG, "label": 4}, "line 1: the answer is number 4 of 4"),
        ("hellaswag", {**HELLASWAG, "label": ""}, "must be the number of a choice"),
        ("hellaswag", {**HELLASWAG, "endings": "one"}, "not a list of strings"),
        ("hellaswag", {**HELLASWAG, "endings": ["", "b"], "label": 0}, "a choice is empty"),
        ("arc", {**ARC, "answerKey": "E"}, "called A, B"),
        ("arc", {**ARC, "question": {"stem": "x", "choices": "y"}}, "called nothing"),
        ("piqa", {"goal": "x", "sol1": "a", "sol2": "b"}, "`labels`"),
        ("piqa", {**PIQA, "sol1": 3}, "is a int, not a string"),
        ("lambada", {"text": "ends in a space "}, "a choice is empty"),
        ("choice", {**CHOICE, "answer": True}, "must be the number"),
        ("choice", ["no", "object"], "a list, not an object"),
        ("choice", LAMBADA, 'no field "context"'),
    ],
)
def test_what_is_no_question_is_named(write, task, record, told):
    with pytest.raises(DataError, match=told.replace("(", r"\(")):
        list(read_items(write(record), task))


def test_labels_that_do_not_fit_are_named(write, tmp_path):
    labels = tmp_path / "labels.lst"
    labels.write_text("1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"labels.lst has 1 labels, but .*items.jsonl has 2 items\."):
        list(read_items(write(PIQA, PIQA), "piqa", labels))
    labels.write_text("1\n0\n1\n1\n0\n", encoding="utf-8")
    for limit in (None, 1):  # once the rest of the labels was dropped without a word
        with pytest.raises(DataError, match=r"labels.lst has 5 labels, but .*items.jsonl has 2 items\."):
            next(read_items(write(PIQA, PIQA), "piqa", labels, limit))
    labels.write_text("1\nyes\n", encoding="utf-8")
    with pytest.raises(DataError, match="a label is 'yes'"):
        list(read_items(write(PIQA), "piqa", labels))
    with pytest.raises(DataError, match="no items"):
        list(read_items(write(), "piqa"))


def test_labels_that_would_not_be_used_or_say_something_else_are_refused(write, tmp_path):
    labels = tmp_path / "labels.lst"
    labels.write_text("1\n", encoding="utf-8")
    for task, record in (("arc", ARC), ("lambada", LAMBADA)):
        with pytest.raises(DataError, match=f"would not be used, since items of {task} contain their answers"):
            next(read_items(write(record), task, labels))
    for task, record in (("piqa", PIQA), ("hellaswag", HELLASWAG), ("choice", {**CHOICE, "answer": "A"})):
        with pytest.raises(DataError, match="but its label in the file of labels is 1"):
            next(read_items(write(record), task, labels))
    for task, record in (
        ("piqa", {**PIQA, "label": -1}),
        ("hellaswag", {**HELLASWAG, "label": ""}),
        ("choice", CHOICE),
    ):
        assert next(read_items(write(record), task, labels)).answer == 1


@pytest.fixture(scope="module")
def gpt2():
    return load_tokenizer("gpt2")


def test_a_pair_is_cut_where_the_harness_cuts_it(gpt2):
    pytest.importorskip("lm_eval")
    from lm_eval.api.model import TemplateLM

    class Harness:
        backend = "causal"

        def tok_encode(self, text):
            return gpt2.encode(text)

    for context, continuation in [
        ("The answer is", " yes"), ("The answer is ", "yes"), ("The answer is  \n", " yes"), ("Ends in th", "e word"),
        ("naïve 日", "本語"), ("a\n\n", "\n\nb"), ("He said: \"", "Hello\""),
    ]:  # fmt: skip
        assert encode_pair(gpt2, context, continuation) == TemplateLM._encode_pair(Harness(), context, continuation)


@given(context=st.text(max_size=20), continuation=st.text(min_size=1, max_size=20))
def test_a_pair_is_the_whole_text_and_neither_part_is_empty(gpt2, context, continuation):
    before, after = encode_pair(gpt2, context, continuation)
    assert before
    assert after
    if context.strip() and gpt2.encode(context.rstrip()) == gpt2.encode(context + continuation)[: len(before)]:
        assert gpt2.decode(before + after) == context + continuation


def reference(lm, item, choice):
    """Log probability of a choice, a token at a time."""
    context, continuation = encode_pair(lm.tokenizer, item.context, item.continuation(choice))
    read, total, greedy = list(context), 0.0, True
    for token in continuation:
        most = lm.config.context_length
        left = len(continuation) - (len(read) - len(context)) - 1  # the whole window ends before the last token
        logits = lm.model(torch.tensor([read[max(0, len(read) + left - most) :]]))[0, -1].double()
        total += logits.log_softmax(-1)[token].item()
        greedy = greedy and int(logits.argmax()) == token
        read.append(token)
    return total, greedy


ITEMS = [
    BenchmarkItem("1", "abc", ("d", "efghij", "é"), 1),
    BenchmarkItem("2", "", ("x", "yz"), 0),
    BenchmarkItem("3", "a context that is longer than the sixteen tokens", ("word", "and another"), 1),
    BenchmarkItem("4", "ends in space ", ("q",), 0),
    BenchmarkItem("5", "b", ("cccccccccccc", "d", "e", "f"), 3),
]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_each_choice_has_the_likelihood_of_its_tokens(lm, batch_size):
    found = list(score_items(lm, ITEMS, batch_size))
    assert [one.item for one in found] == ITEMS
    assert [one.truncated for one in found] == [False, False, True, False, False]
    with torch.no_grad():
        for one in found:
            for choice, (nats, greedy) in enumerate(zip(one.nats, one.greedy, strict=True)):
                expected, would_write = reference(lm, one.item, choice)
                assert -nats == pytest.approx(expected, rel=1e-4)
                assert greedy == would_write


def test_accuracies_are_counted_by_all_four_lengths(lm):
    sums = add_up(score_items(lm, ITEMS[:3] + ITEMS[4:], 2))
    right = {"sum": 0, "character": 0, "byte": 0, "token": 0}
    for one in score_items(lm, ITEMS[:3] + ITEMS[4:], 2):
        choices = one.item.choices
        sizes = {
            "sum": np.ones(len(choices)),
            "character": np.array([len(c) for c in choices]),
            "byte": np.array([len(c.encode()) for c in choices]),
            "token": np.array([len(lm.tokenizer.encode(c)) + 1 for c in choices]),  # with the space before it
        }
        for name, by in sizes.items():
            right[name] += int(np.argmax(-np.array(one.nats) / by)) == one.item.answer
    assert {name: round(4 * sums.means[name].estimate().value) for name in right} == right
    named = {score.key: score for score in scores(sums)}
    p = right["character"] / 4
    assert named["accuracy_per_character"].value == p
    assert named["accuracy_per_character"].error == pytest.approx(
        np.std([1] * right["character"] + [0] * (4 - right["character"]), ddof=1) / 2
    )
    assert named["chance"].value == pytest.approx((1 / 3 + 1 / 2 + 1 / 2 + 1 / 4) / 4)


def test_a_model_that_knows_the_answers_is_always_right(lm):
    """Two ways to the same: choices that the model writes itself are its greedy ones, and the likeliest."""
    items = []
    for start in ("ab", "The fox", "12"):
        ids = lm.tokenizer.encode(start)
        with torch.no_grad():
            ids.append(int(lm.model(torch.tensor([ids]))[0, -1, :256].argmax()))
        written = bytes(lm.tokenizer.token_bytes(ids[-1]))
        if written[0] < 128 and not written.isspace():
            others = [chr(c) for c in range(97, 103) if bytes([c]) != written]
            items.append(BenchmarkItem(start, start, (others[0], written.decode(), others[1]), 1, separator=""))
    assert items
    sums = add_up(score_items(lm, items))
    assert sums.means["sum"].estimate().value == 1.0


def test_a_cloze_has_an_accuracy_and_a_perplexity(lm):
    items = [BenchmarkItem(str(n), "some context", (word,), 0) for n, word in enumerate(("a", "bc", "def"))]
    found = list(score_items(lm, items))
    named = {score.key: score for score in scores(add_up(found))}
    assert set(named) == {"accuracy", "perplexity", "nats"}
    nats = np.array([one.nats[0] for one in found])
    assert named["perplexity"].value == pytest.approx(math.exp(nats.mean()))
    assert named["nats"].error == pytest.approx(nats.std(ddof=1) / math.sqrt(3))


def test_one_item_has_no_standard_error(lm):
    sums = add_up(score_items(lm, ITEMS[:1]))
    assert all(score.error is None for score in scores(sums))
    json.dumps(as_json(sums), allow_nan=False)


def test_what_became_of_an_item_is_json(lm):
    (one,) = score_items(lm, ITEMS[:1])
    told = json.loads(json.dumps(item_json(one)))
    assert told["picks"]["sum"] == int(np.argmin(told["nats"]))
    assert told["choices"] == ["d", "efghij", "é"]
    assert told["tokens"] == [2, 7, 3]


def test_a_choice_longer_than_the_context_is_refused(lm):
    with pytest.raises(DataError, match="choice 1 has 17 tokens"):
        list(score_items(lm, [BenchmarkItem("7", "a", ("b", "c" * 16), 0)]))


def test_items_stream(lm):
    """The first answers come before the last items are asked for."""
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield ITEMS[0]

    stream = score_items(lm, endless(), 2)
    for _ in range(100):
        next(stream)
    assert len(asked) < 200


def test_every_task_can_be_named():
    from typing import get_args

    from handloom.cli.evaluate import Task

    assert set(get_args(Task)) == {"auto", "text", *TASKS}
