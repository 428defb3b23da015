"""Prompt -> text: whole characters, exact stops, and three ways to the same text."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stand_ins import Tune

from handloom.errors import HandloomError, RequestError
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.train import train_bpe

GREEDY = {"temperature": 0}
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def three_ways(make, length, stop=()):
    """The completion of a fresh model, after `stream` and `generate` were found to say the same."""
    events = list(make().stream("x", max_new_tokens=length, temperature=0, stop=stop))
    pieces = [event.text for event in events]
    done = make().complete("x", max_new_tokens=length, **GREEDY, stop=stop).completions[0]
    assert "".join(pieces) == done.text
    assert make().generate("x", max_new_tokens=length, temperature=0, stop=stop) == done.text
    assert [event.token for event in events] == list(done.ids)
    assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + [done.finish_reason]
    return done, pieces


def until_stop(text, stops):
    """The slow and obvious rule: character by character, until a stop string is complete."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], "stop"
    return text, "length"


@quick
@given(text=st.text("abc", min_size=1, max_size=30), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_stop_strings_end_the_text_where_the_first_is_complete(play, text, stops):
    done, pieces = three_ways(lambda: play(text), len(text), stops)
    wanted, finish = until_stop(text, stops)
    assert (done.text, done.finish_reason) == (wanted, finish)
    grown = ""
    for piece in pieces:  # nothing is ever shown that would have to be taken back
        grown += piece
        assert wanted.startswith(grown)


@quick
@given(text=st.text("ab", min_size=1, max_size=20), stops=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
@example(text="abab", stops=["abab", "b"])
def test_stops_do_not_depend_on_how_the_text_is_cut_into_tokens(text, stops):
    tokenizer = train_bpe(["abab abba aabb bbaa abab"] * 3, 270)
    lm = LanguageModel(Tune(tokenizer.encode(text), vocab_size=tokenizer.vocab_size), tokenizer)
    assert len(tokenizer.encode("abab")) == 1
    new = len(tokenizer.encode(text))
    found = lm.complete("x", GenerationConfig(max_new_tokens=new, **GREEDY), stop=stops).completions[0]
    assert (found.text, found.finish_reason) == until_stop(text, stops)


def test_a_stop_string_across_tokens_is_held_back_and_let_go_when_it_does_not_come(play):
    events = play("ab##c###d").stream("x", max_new_tokens=9, temperature=0, stop="###")
    assert [event.text for event in events] == ["a", "b", "", "", "##c", "", "", ""]


def test_one_string_is_one_stop_and_not_its_letters(play):
    assert play("abcd").generate("x", max_new_tokens=4, temperature=0, stop="cb") == "abcd"


@quick
@given(st.text(st.sampled_from("aé世👩‍🚀\u0301"), min_size=1, max_size=12))
def test_streams_never_hold_half_a_character(play, text):
    length = len(text.encode("utf-8"))
    done, pieces = three_ways(lambda: play(text, context_length=200), length)
    assert done.text == text
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_the_length_cuts_in_half_is_left_out(play):
    done, _ = three_ways(lambda: play("ab👋"), 4)
    assert done.text == "ab"
    assert len(done.ids) == 4
    assert done.finish_reason == "length"


def test_bytes_that_are_no_character_are_shown_as_such_when_others_follow(play, byte_tokenizer):
    half = byte_tokenizer.encode("👋")[:2]
    lm = play([*half, *byte_tokenizer.encode("ab")])
    assert lm.generate("x", max_new_tokens=4, temperature=0) == "\ufffdab"


def test_what_might_have_been_a_stop_is_given_back_at_the_end(play, byte_tokenizer):
    done, _ = three_ways(lambda: play("ab#"), 3, "###")
    assert (done.text, done.finish_reason) == ("ab#", "length")
    ends = [*byte_tokenizer.encode("ab#"), byte_tokenizer.eos_token_id]
    done, _ = three_ways(lambda: play(ends), 10, "###")
    assert (done.text, done.finish_reason) == ("ab#", "stop")


def test_the_end_of_text_ends_and_is_not_text(play, byte_tokenizer):
    ends = [*byte_tokenizer.encode("bye"), byte_tokenizer.eos_token_id, *byte_tokenizer.encode("more")]
    done, _ = three_ways(lambda: play(ends), 20)
    assert (done.text, done.finish_reason) == ("bye", "stop")
    assert done.ids == tuple(ends[:4])


def test_typing_the_end_of_text_is_ordinary_text(lm, byte_tokenizer):
    assert byte_tokenizer.eos_token_id not in lm.prompt_ids("<|endoftext|>")
    assert lm.prompt_ids(None) == [byte_tokenizer.eos_token_id]


def test_rows_end_one_by_one(play, byte_tokenizer):
    end = byte_tokenizer.eos_token_id
    done = play([97, end, 98, 98], [97, 97, 97, end]).complete("x", GenerationConfig(max_new_tokens=4, **GREEDY), n=2)
    assert [len(one.ids) for one in done.completions] == [2, 4]
    assert [one.finish_reason for one in done.completions] == ["stop", "stop"]
    assert done.prompt_tokens == 1


def test_the_first_of_three_is_the_only_one_of_one(lm):
    request = GenerationConfig(max_new_tokens=12, temperature=0.9, top_p=0.9, seed=4)
    three = lm.complete("ab", request, n=3).completions
    assert three[0] == lm.complete("ab", request, n=1).completions[0]
    assert len({one.text for one in three}) == 3
    assert lm.generate("ab", max_new_tokens=12, temperature=0.9, top_p=0.9, seed=4) == three[0].text


def test_prompts_side_by_side_are_the_prompts_alone(lm):
    request = GenerationConfig(max_new_tokens=20, temperature=0.9, seed=5, overflow="slide", logprobs=2, echo=True)
    prompts = ["a", "abc def", None, "x" * 40, "y" * 11]
    together = lm.complete_batch(prompts, request, n=2, stop=["e", "qq"])
    for prompt, found in zip(prompts, together, strict=True):
        alone = lm.complete(prompt, request, n=2, stop=["e", "qq"])
        assert [(one.text, one.ids, one.finish_reason) for one in found.completions] == [
            (one.text, one.ids, one.finish_reason) for one in alone.completions
        ]
        assert found.prompt_logprobs == alone.prompt_logprobs
        assert found.prompt_tokens == alone.prompt_tokens == len(lm.prompt_ids(prompt))
        for one, other in zip(found.completions, alone.completions, strict=True):
            assert [choice.token for choice in one.logprobs] == list(one.ids)
            assert [choice.logprob for choice in one.logprobs] == pytest.approx(
                [choice.logprob for choice in other.logprobs], abs=1e-3
            )
    assert lm.complete_batch([], request) == []


def test_bad_words_and_biases_may_be_text_or_ids(play, byte_tokenizer):
    def text(**settings):
        return play("ab cd").generate("x", max_new_tokens=5, temperature=0, **settings)

    assert text() == "ab cd"
    for words in (["cd"], ["d"], [byte_tokenizer.encode("b ")]):
        assert text(bad_words=words) != "ab cd"
    assert text(bad_words=["ac", "b"])[:2] != "ab"  # in front of it, too: neither "b" nor " b"
    assert text(logit_bias={"b": -100}) == text(logit_bias=["b=-100"]) == "ab cd"  # sure of itself
    with pytest.raises(RequestError, match="which is 2 tokens: "):
        text(logit_bias={"ab": 1.0})


def test_the_end_can_be_held_off_and_forced(lm, byte_tokenizer):
    end = byte_tokenizer.eos_token_id
    wild = {"temperature": 5.0, "max_new_tokens": 20, "logit_bias": {end: 100.0}}
    (done,) = lm.complete("x", GenerationConfig.of(**wild, min_new_tokens=15)).completions
    assert (done.finish_reason, len(done.ids)) == ("stop", 16)
    (done,) = lm.complete("x", GenerationConfig.of(max_new_tokens=4, forced_eos=True)).completions
    assert done.finish_reason == "stop"
    assert len(done.ids) <= 4


def test_beams_end_at_stop_strings_and_give_several_texts(lm):
    request = GenerationConfig.of(max_new_tokens=10, num_beams=4, logprobs=1)
    done = lm.complete("ab", request, n=3).completions
    assert len({one.text for one in done}) == 3
    letter = done[0].text[1]
    stopped = lm.complete("ab", request, n=4, stop=letter).completions
    assert all(letter not in one.text for one in stopped)
    for one in done:
        assert [choice.token for choice in one.logprobs] == list(one.ids)
    with pytest.raises(RequestError, match="cannot be streamed"):
        next(lm.stream("ab", num_beams=2))


def test_stopping_early_keeps_what_was_held_back(play):
    asked = iter([False, False, True])
    lm, config = play("ab#cd"), GenerationConfig(max_new_tokens=5, stop="#!", **GREEDY)
    events = list(lm.stream("x", config, should_stop=lambda: next(asked)))
    assert "".join(event.text for event in events) == "ab#"
    assert (events[-1].token, events[-1].finish_reason) == (None, "cancel")


def test_settings_that_do_not_exist_name_the_nearest(lm):
    with pytest.raises(RequestError, match=r"There is no setting 'temprature'\. Did you mean 'temperature'"):
        lm.generate("x", temprature=1)


def test_settings_reach_the_sampler(lm):
    greedy = lm.generate("ab", max_new_tokens=10, temperature=0)
    assert lm.generate("ab", max_new_tokens=10, top_k=1, seed=8) == greedy
    assert lm.generate("ab", max_new_tokens=10, top_p=1e-9, seed=9) == greedy
    assert lm.generate("ab", max_new_tokens=40, overflow="slide", temperature=0).startswith(greedy[:5])


@pytest.mark.parametrize(
    ("prompt", "settings", "part"),
    [
        ("", {}, "The prompt is empty"),
        ("ab\udc80c", {}, r"lone surrogate U\+DC80 at character 3"),
        ("\ud83d", {}, r"lone surrogate U\+D83D at character 1"),
        (b"ab", {}, "The prompt is a bytes"),
        ("x" * 30, {}, "The prompt has 30 tokens"),
        ("x", {"max_new_tokens": 100}, "100 new ones pass the model's context of 24"),
        ("x", {"stop": ["a", ""]}, "A stop string is empty"),
        ("x", {"stop": [3]}, "A stop string is not text"),
        ("x", {"stop": 3}, "A stop string is not text"),
        ("x", {"seed": -1}, "seed is -1"),
        ("x", {"temperature": -1}, "temperature is -1"),
    ],
)
def test_wrong_requests_are_errors_of_ours(lm, prompt, settings, part):
    settings = {"max_new_tokens": 3, **settings}
    with pytest.raises(RequestError, match=part):
        lm.generate(prompt, **settings)
    with pytest.raises(HandloomError, match=part):
        list(lm.stream(prompt, **settings))


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_wrong_numbers_of_texts_are_errors_of_ours(lm, n):
    with pytest.raises(RequestError, match=f"n is {n}"):
        lm.complete("x", GenerationConfig(max_new_tokens=3), n=n)


def test_a_surrogate_pair_is_a_character(lm):
    assert lm.prompt_ids("\ud83d\udc4b") == lm.prompt_ids("👋")
