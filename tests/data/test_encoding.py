"""What does not fit a row is refused by its line, cut, or left out, as the policy says."""

from __future__ import annotations

import pytest

from handloom.data.examples import Conversation, ExampleEncoder, LabeledText, PreferencePair
from handloom.data.schema import Origin
from handloom.errors import DataError
from handloom.tokenizer.chat import EncodedChat, Message, encode_conversation, encode_generation_prompt


def conversation(question, answer, line=1, train=True):
    messages = (Message("user", question), Message("assistant", answer, train))
    return Conversation(messages, Origin("chat.jsonl", line))


SHORT, LONG = conversation("a", "b", 1), conversation("a", "very " * 20, 2)


def room_for(example, tokenizer):
    """The context in which an example just fits."""
    return len(encode_conversation(tokenizer, example.messages).ids) - 1


def test_what_fits_is_encoded_to_its_end(gpt2):
    fitting = ExampleEncoder(room_for(LONG, gpt2), "error")
    found = fitting.encode([SHORT, LONG], gpt2)
    assert found == [(each, [encode_conversation(gpt2, each.messages)]) for each in (SHORT, LONG)]
    assert fitting.omissions.to_dict() == {}


def test_too_long_by_one_token_is_an_error_with_its_line(gpt2):
    fits = room_for(LONG, gpt2)
    with pytest.raises(DataError) as refused:
        ExampleEncoder(fits - 1, "error").encode([SHORT, LONG], gpt2)
    assert f"chat.jsonl, line 2: {fits + 1} tokens, but a row has room for {fits} (context {fits - 1})" in str(
        refused.value
    )
    for remedy in ("`context_length`", "`overlong=truncate`", "`overlong=skip`"):
        assert remedy in refused.value.remedy


def test_cut_leaves_out_the_end_and_skip_the_example(gpt2):
    fitting = ExampleEncoder(12, "truncate")
    (_, (short,)), (_, (cut,)) = fitting.encode([SHORT, LONG], gpt2)
    whole = encode_conversation(gpt2, LONG.messages)
    assert (cut.ids, cut.loss_mask) == (whole.ids[:13], whole.loss_mask[:13])
    assert fitting.omissions.to_dict() == {"truncated": {"count": 1, "first": ["chat.jsonl, line 2"]}}
    fitting = ExampleEncoder(12, "skip")
    assert fitting.encode([SHORT, LONG, LONG], gpt2) == [(SHORT, [short])]
    assert fitting.omissions["overlong"] == 2


def test_nothing_to_learn_is_an_error_with_its_line_whatever_the_policy(gpt2):
    for policy in ("error", "truncate", "skip"):
        with pytest.raises(
            DataError, match=r'chat.jsonl, line 7: no token is learned, since every answer has "weight"'
        ):
            ExampleEncoder(30, policy).encode([SHORT, conversation("a", "b", 7, train=False)], gpt2)
    with pytest.raises(
        DataError, match=r"chat.jsonl, line 8: what stands before the answer fills the row of 12 tokens"
    ):
        ExampleEncoder(12, "truncate").encode([conversation("very " * 20, "b", 8)], gpt2)
    with pytest.raises(DataError, match="Every example is longer than a row of 12 tokens"):
        ExampleEncoder(12, "skip").encode([LONG, LONG], gpt2)


def pair(prompt, chosen, rejected, line=1):
    return PreferencePair(prompt, chosen, rejected, Origin("pairs.jsonl", line))


def test_a_pair_is_its_prompt_with_each_answer_and_the_end(gpt2):
    asked = (Message("user", "Sky?"),)
    for prompt, ids in (("Sky:", gpt2.encode("Sky:")), (asked, encode_generation_prompt(gpt2, asked))):
        ((_, (chosen, rejected)),) = ExampleEncoder(30, "error").encode([pair(prompt, " blue", " very green")], gpt2)
        for text, answer in ((chosen, " blue"), (rejected, " very green")):
            wanted = [*gpt2.encode(answer), gpt2.eos_token_id]
            assert text.ids == ids + wanted
            assert text.loss_mask == [False] * len(ids) + [True] * len(wanted)


def test_a_pair_is_as_long_as_its_longer_answer(gpt2):
    pairs = [pair("a", " b", " very" * 20, 4), pair("a", " b", " c", 5)]
    with pytest.raises(DataError, match=r"pairs.jsonl, line 4: 22 tokens, but a row has room for 9"):
        ExampleEncoder(8, "error").encode(pairs, gpt2)
    assert [p.origin.line for p, _ in ExampleEncoder(8, "skip").encode(pairs, gpt2)] == [5]
    assert [len(rejected.ids) for _, (_, rejected) in ExampleEncoder(8, "truncate").encode(pairs, gpt2)] == [9, 3]


def test_a_cut_that_leaves_no_difference_or_no_answer_is_an_error(gpt2):
    with pytest.raises(DataError, match=r"pairs.jsonl, line 6: both answers are the same within a row of 8 tokens"):
        ExampleEncoder(8, "truncate").encode([pair("a", " b" * 20, " b" * 30, 6)], gpt2)
    with pytest.raises(DataError, match=r"pairs.jsonl, line 7: what stands before the answer fills the row"):
        ExampleEncoder(8, "truncate").encode([pair(" b" * 20, " c", " d", 7)], gpt2)


def test_a_labelled_text_may_fill_the_whole_context(gpt2):
    texts = [LabeledText(" b" * number, "x", Origin("spam.jsonl", number)) for number in (8, 9)]
    with pytest.raises(DataError, match=r"spam.jsonl, line 9: 9 tokens, but a row has room for 8"):
        ExampleEncoder(8, "error").encode(texts, gpt2)
    assert [text.ids for _, (text,) in ExampleEncoder(8, "truncate").encode(texts, gpt2)] == [gpt2.encode(" b" * 8)] * 2
    assert ExampleEncoder(8, "skip").encode(texts, gpt2) == [
        (texts[0], [EncodedChat(gpt2.encode(" b" * 8), [False] * 8)])
    ]
