"""Talking with a model that learned conversations: it is given the ids of training, and history within its context."""

from __future__ import annotations

import pytest
from stand_ins import lively

from handloom.errors import RequestError
from handloom.inference.chat import ChatSession
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.chat import CHAT_TEMPLATE, Message, encode_generation_prompt

CONTEXT = 96
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def talker(byte_tokenizer):
    return LanguageModel(lively(context_length=CONTEXT), byte_tokenizer, template=CHAT_TEMPLATE)


def dialogue(lm, notes=None, **settings):
    request = GenerationConfig().changed(**{"max_new_tokens": 8, **settings})
    return ChatSession(lm, request, on_note=(notes if notes is not None else []).append)


def text_of(events):
    return "".join(event.text for event in events)


def said(*contents):
    """Messages of user and assistant in turn."""
    return [Message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(contents)]


def test_messages_are_asked_in_the_ids_of_training(talker):
    wanted = encode_generation_prompt(talker.tokenizer, said("Hi"))
    assert talker.prompt_ids(HI) == talker.prompt_ids((Message("user", "Hi"),)) == wanted
    request = GenerationConfig.of(max_new_tokens=5)
    assert talker.complete(HI, request).prompt_tokens == len(wanted)
    assert text_of(talker.stream(HI, max_new_tokens=5)) == talker.generate(HI, max_new_tokens=5)


def test_each_turn_is_answered_after_all_before_it(talker):
    talk = dialogue(talker)
    one = text_of(talk.send("Hi"))
    two = text_of(talk.send("So?"))
    assert one == talker.generate(said("Hi"), max_new_tokens=8)
    assert two == talker.generate(said("Hi", one, "So?"), max_new_tokens=8, seed=1)
    assert talk.text == f"User:\nHi\n\nAssistant:\n{one}\n\nUser:\nSo?\n\nAssistant:\n{two}"
    again = text_of(talk.retry())
    assert again == talker.generate(said("Hi", one, "So?"), max_new_tokens=8, seed=2)
    other = text_of(talk.edit("No"))
    assert other == talker.generate(said("Hi", one, "No"), max_new_tokens=8, seed=3)
    talk.undo()
    assert talk.text == f"User:\nHi\n\nAssistant:\n{one}"


def test_what_the_system_says_stands_before_all_turns(talker):
    talk = dialogue(talker)
    talk.set_system("Be brief.")
    found = text_of(talk.send("Hi"))
    assert found == talker.generate([Message("system", "Be brief."), *said("Hi")], max_new_tokens=8)
    assert talk.text.startswith("System:\nBe brief.\n\nUser:\nHi\n\nAssistant:\n")
    talk.set_system(None)
    assert talk.text.startswith("User:\nHi")
    with pytest.raises(RequestError, match="does not fit the model's context of 96"):
        talk.set_system("x" * 90)


def test_an_answer_ends_with_the_end_of_text(play, byte_tokenizer):
    end = byte_tokenizer.eos_token_id
    lm = play([*byte_tokenizer.encode("Yes."), end, *byte_tokenizer.encode("more")])
    lm.template = CHAT_TEMPLATE
    assert text_of(dialogue(lm).send("Hi")) == "Yes."


def test_the_first_turns_go_out_of_sight_when_the_context_is_full_and_that_is_told(talker):
    notes = []
    talk = dialogue(talker, notes)
    talk.set_system("S")
    answers = []
    for number in range(8):
        answers.append(text_of(talk.send(f"turn {number}")))
    assert len(talk.turns) == 8
    assert notes[0] == "The first turn is out of the model's context of 96 tokens."
    assert notes[-1].startswith("The first ")
    seen = talk._in_context()
    assert 1 <= len(seen) < 8
    history = [text for turn in seen[:-1] for text in (turn.user, turn.assistant)]
    messages = [Message("system", "S"), *said(*history, "turn 7")]
    assert len(talker.prompt_ids(messages)) + 8 - 1 <= CONTEXT
    assert answers[-1] == talker.generate(messages, max_new_tokens=8, seed=7)
    earlier = talk.turns[-len(seen) - 1]
    longer = [messages[0], *said(earlier.user, earlier.assistant, *history, "turn 7")]
    assert len(talker.prompt_ids(longer)) + 8 - 1 > CONTEXT
    told = len(notes)
    text_of(talk.retry())
    assert len(notes) == told


def test_an_answer_ends_where_the_context_does(talker):
    talk = dialogue(talker, max_new_tokens=1000, temperature=0.0, bad_words=())
    line = "x" * 60
    room = CONTEXT - len(talker.prompt_ids(said(line))) + 1
    assert 0 < room < 48
    found = text_of(talk.send(line))
    wanted = talker.complete(said(line), GenerationConfig.of(max_new_tokens=room, temperature=0.0)).completions[0]
    assert found == wanted.text
    assert wanted.finish_reason == "length"


@pytest.mark.parametrize(("line", "problem"), [(" ", "An empty line asks nothing"), ("x" * 90, "have 109 tokens, and")])
def test_what_cannot_be_asked_leaves_the_conversation_as_it_was(talker, line, problem):
    talk = dialogue(talker)
    first = text_of(talk.send("Hi"))
    for ask in (talk.send, talk.edit):
        with pytest.raises(RequestError, match=problem):
            ask(line)
    assert [(turn.user, turn.assistant) for turn in talk.turns] == [("Hi", first)]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "The last message is not the user's"),
        (said("Hi", "Hello"), "The last message is not the user's"),
        (["Hi"], "Message 1 is a string"),
        ([{"role": "usr", "content": "Hi"}], "unknown role 'usr'. Did you mean 'user'?"),
        ([{"role": "user", "content": None}], "The content of Message 1 is null, not a string"),
        ([{"role": "user", "content": " "}], "Message 1 is empty"),
        ([{"role": "user", "content": "\ud800"}], "The content of Message 1 contains a lone surrogate"),
        (b"Hi", "The prompt is a bytes; it must be text, or a list of messages"),
    ],
)
def test_messages_that_cannot_be_answered_are_refused(talker, messages, problem):
    with pytest.raises(RequestError) as refused:
        talker.generate(messages)
    assert problem in str(refused.value)


def test_a_model_that_learned_no_conversations_is_not_asked_with_messages(lm):
    with pytest.raises(RequestError, match="does not have a chat template"):
        lm.generate(HI)
