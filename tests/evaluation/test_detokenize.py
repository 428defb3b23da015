"""Benchmarks become ordinary text: examples by hand, and nothing is lost where a line can be written at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.evaluation.detokenize import FORMS, detokenize, retokenize

EXAMPLES = [
    ("wikitext", " = Valkyria Chronicles = \n", "= Valkyria Chronicles =\n"),
    ("wikitext", " = = = Early work = = = \n", "=== Early work ===\n"),
    ("wikitext", " \n = = Career = = \n \n", "\n== Career ==\n\n"),
    ("wikitext", " It cost $ 1 @,@ 200 ( £ 3 @.@ 5 ) . \n", "It cost $1,200 (£3.5).\n"),
    (
        "wikitext",
        ' A half @-@ page note : " Yes , " he wrote ; " no ! " \n',
        'A half-page note: "Yes," he wrote; "no!"\n',
    ),
    (
        "wikitext",
        " The players ' game didn 't end in the U.S. today . \n",
        "The players' game didn't end in the U.S. today.\n",
    ),
    (
        "wikitext",
        " AC / DC played at 45 ° N , 50 % of it live [ 3 ] ? \n",
        "AC/DC played at 45°N, 50% of it live [3]?\n",
    ),
    ("wikitext", " in 1990 – 1995 , the <unk> \n", "in 1990 – 1995, the <unk>\n"),
    ("ptb", " mr. <unk> does n't own N N % of it \n", "mr. <unk> doesn't own N N% of it\n"),
    ("ptb", " it 's $ N billion in u.s. traders ' hands \n", "it's $N billion in u.s. traders' hands\n"),
    ("ptb", " a third-quarter loss they 'll feel \n", "a third-quarter loss they'll feel\n"),
    (
        "lambada",
        "`` i 'm sorry , '' he said , `` but mr. smith did n't call . ''",
        '"i\'m sorry," he said, "but mr. smith didn\'t call."',
    ),
    ("lambada", "`` no ! '' she cried -- why ( how ) ?", '"no!" she cried -- why (how)?'),
]


@pytest.mark.parametrize(("name", "benchmark", "ordinary"), EXAMPLES)
def test_examples_by_hand_both_ways(name, benchmark, ordinary):
    assert detokenize(FORMS[name], benchmark) == ordinary
    assert retokenize(FORMS[name], ordinary) == benchmark


WORDS = ["the", "Game", "1990", "12", "é", "<unk>", "naïve", "Mr.", "U.S.", "over"]


def lines(name):
    """Lines that the form can write: words, and marks where they belong."""
    word = st.sampled_from(WORDS)
    if name == "wikitext":
        phrase = st.one_of(
            word.map(lambda w: [w]),
            st.tuples(word, st.sampled_from(["'s", "'t", "'ll", ",", ";", ":", "!"])).map(list),
            word.map(lambda w: ["(", w, ")"]),
            word.map(lambda w: ['"', w, '"']),
            st.sampled_from([["12", "@.@", "7"], ["1", "@,@", "000"], ["half", "@-@", "page", "@-@", "x"], ["$", "5"]]),
        )
    elif name == "ptb":
        ending = st.sampled_from(["'s", "'re", "%", "'"])
        phrase = st.one_of(
            word.map(lambda w: [w]),
            st.tuples(word, ending).map(list),
            st.sampled_from([["$", "N"], ["does", "n't"], ["third-quarter"]]),
        )
    else:
        phrase = st.one_of(
            word.map(lambda w: [w]),
            st.tuples(word, st.sampled_from(["'s", "'m", ",", "?"])).map(list),
            word.map(lambda w: ["``", w, ",", "''"]),
            st.sampled_from([["did", "n't"], ["--"]]),
        )
    return st.lists(phrase, min_size=1, max_size=8).map(
        lambda parts: " ".join(token for part in parts for token in part)
    )


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
def test_what_can_be_written_comes_back(name, data):
    form = FORMS[name]
    line = data.draw(lines(name))
    text = f" {line} \n" if form.edges else f"{line}\n"
    ordinary = detokenize(form, text)
    assert retokenize(form, ordinary) == text
    assert len(ordinary) <= len(text)


@pytest.mark.parametrize("name", FORMS)
@given(a=st.text(), b=st.text())
def test_any_text_is_taken_and_lines_do_not_depend_on_each_other(name, a, b):
    form = FORMS[name]
    for turn in (detokenize, retokenize):
        assert turn(form, a + "\n" + b) == turn(form, a + "\n") + (turn(form, b) if b else "")


def test_what_cannot_come_back_does_not():
    form = FORMS["wikitext"]
    for line in (" an in-word hyphen \n", " the end of Mr . \n", " U.S . \n", "no edges\n"):
        assert retokenize(form, detokenize(form, line)) != line
