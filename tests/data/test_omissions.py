"""What is left out is counted by reason, and said."""

import json

import pytest

from handloom.data.omissions import REASONS, Omissions


def test_counts_by_reason_with_the_first_names():
    omitted = Omissions()
    assert omitted.to_dict() == {}
    for number in range(5):
        omitted.add("suffix", f"docs/{number}.rst", by=".rst")
    omitted.add("suffix", "docs/a.csv", by=".csv")
    omitted.add("empty", number=80)
    assert (omitted["suffix"], omitted["empty"], omitted["duplicate"]) == (6, 80, 0)
    values = json.loads(json.dumps(omitted.to_dict()))
    assert values == {
        "suffix": {"count": 6, "by": {".rst": 5, ".csv": 1}, "first": ["docs/0.rst", "docs/1.rst", "docs/2.rst"]},
        "empty": {"count": 80},
    }


def test_sentences_follow_the_order_of_the_table_and_know_what_asks_for_action():
    omitted = Omissions()
    omitted.add("duplicate", "b.txt")
    omitted.add("suffix", "a.rst", by=".rst")
    assert omitted.sentences() == [
        (
            "1 file in a folder was left out for its suffix (1 .rst): a.rst. Name such files themselves to have "
            'them read as text, for example "FOLDER/**/*.rst".',
            True,
        ),
        ("1 exact copy of another document was left out: b.txt.", False),
    ]


def test_sums_two_reports():
    one, other = Omissions(), Omissions()
    for omitted, names in ((one, "ab"), (other, "cdef")):
        for name in names:
            omitted.add("empty", name)
    other.add("suffix", "x.rst", by=".rst")
    one.update(other)
    assert one["empty"] == 6
    assert one.to_dict()["empty"]["first"] == ["a", "b", "c"]
    assert one.sentences()[1][0] == "6 empty documents were left out: a, b, c and others."
    assert other["empty"] == 4


@pytest.mark.parametrize("name", REASONS)
def test_every_reason_reads_as_a_sentence(name):
    reason = REASONS[name]
    assert reason.one != reason.many
    assert not reason.one.endswith(".")
    assert not reason.remedy or reason.remedy.endswith(".")


def test_an_unknown_reason_is_our_own_mistake():
    with pytest.raises(AssertionError):
        Omissions().add("whim")
