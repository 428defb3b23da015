"""A sequence's tokens do not depend on who joins, leaves, fails or is cancelled.

Its logits do, in their last bits: a matrix product sums in another order when its shape changes, and a prompt that
joins a running batch is read without its last token first. The tokens have to be equal in float32 nevertheless, for
these models, whose logits lie far apart; log probabilities to within 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import lively

from handloom.errors import RequestError
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig

CONTEXT = 12
MODEL = lively(context_length=CONTEXT, layers=1)
SETTINGS = st.fixed_dictionaries(
    {
        "max_new_tokens": st.integers(1, 20),
        "temperature": st.sampled_from([0.0, 0.9, 3.0]),
        "top_p": st.sampled_from([None, 0.8]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "seed": st.integers(0, 3),
        "logprobs": st.sampled_from([None, 0, 2]),
        "eos_token_ids": st.sampled_from([(), (65,), (3, 9, 200)]),
        "stop": st.sampled_from([(), ("e",), ("ab", "\n")]),
        # No token twice and only nine of them: such a request fails at its tenth.
        "no_repeat_ngram_size": st.sampled_from([None, None, 1]),
        "vocab_size": st.sampled_from([257, 257, 9]),
    }
)


@dataclass
class Request:
    prompt: list
    config: GenerationConfig
    row: int
    joins: int
    cancelled: int | None


REQUESTS = st.lists(
    st.builds(
        Request,
        prompt=st.lists(st.integers(0, 256), min_size=1, max_size=CONTEXT + 8),
        config=SETTINGS.map(lambda values: GenerationConfig(**values, overflow="slide")),
        row=st.integers(0, 2),
        joins=st.integers(0, 12),
        cancelled=st.one_of(st.none(), st.none(), st.integers(0, 15)),
    ),
    min_size=1,
    max_size=6,
)


def played(requests, tokenizer, max_rows=None):
    """The events of each request, all in one engine; each joins, and is cancelled, at its step."""
    engine, numbers, events = Engine(MODEL, tokenizer, max_rows), {}, {}
    step = 0
    while len(numbers) < len(requests) or engine.busy:
        for at, request in enumerate(requests):
            if request.joins == step:
                numbers[at] = engine.add(request.prompt, request.config, row=request.row)
                events[numbers[at]] = []
            if at in numbers and request.cancelled is not None and request.joins + request.cancelled == step:
                events[numbers[at]] += [event] if (event := engine.cancel(numbers[at])) else []
        for event in engine.step():
            events[event.request].append(event)
        step += 1
    return [events[numbers[at]] for at in range(len(requests))]


@settings(max_examples=150)
@given(requests=REQUESTS, max_rows=st.sampled_from([None, None, 1, 2, 3]))
def test_tokens_do_not_depend_on_who_joins_leaves_fails_or_is_cancelled(byte_tokenizer, requests, max_rows):
    together = played(requests, byte_tokenizer, max_rows)
    for request, events in zip(requests, together, strict=True):
        (alone,) = played([Request(request.prompt, request.config, request.row, 0, None)], byte_tokenizer)
        tokens = [event.token for event in events if event.token is not None]
        if events[-1].finish_reason == "cancel":
            alone = alone[: len(tokens)]
            events = events[:-1]
        assert tokens == [event.token for event in alone if event.token is not None]
        for event, other in zip(events, alone, strict=True):
            assert (event.text, event.finish_reason) == (other.text, other.finish_reason)
            assert event.logprob == (None if other.logprob is None else pytest.approx(other.logprob, abs=1e-3))
            assert len(event.top) == len(other.top) == (request.config.logprobs or 0) * (event.token is not None)
            assert str(event.error) == str(other.error)


def test_a_request_that_cannot_be_served_is_refused_alone(byte_tokenizer):
    engine = Engine(MODEL, byte_tokenizer)
    engine.add([1], GenerationConfig(max_new_tokens=3))
    with pytest.raises(RequestError, match="pass the model's context"):
        engine.add([1] * CONTEXT, GenerationConfig(max_new_tokens=3))
    assert [len(engine.step()) for _ in range(4)] == [1, 1, 1, 0]


def test_a_request_that_fails_says_why_and_the_others_go_on(byte_tokenizer):
    engine = Engine(MODEL, byte_tokenizer)
    engine.add([1], GenerationConfig(max_new_tokens=9, vocab_size=5, no_repeat_ngram_size=1))
    engine.add([1], GenerationConfig(max_new_tokens=9))
    events = list(engine.run())
    (failed,) = [event for event in events if event.error is not None]
    assert (failed.request, failed.token, failed.finish_reason) == (0, None, "error")
    assert isinstance(failed.error, RequestError)
    assert [event.finish_reason for event in events if event.request == 1] == [None] * 8 + ["length"]


def test_waiting_requests_join_in_their_order_as_rows_become_free(byte_tokenizer):
    engine = Engine(MODEL, byte_tokenizer, max_rows=2)
    for length in (1, 3, 2, 1):
        engine.add([1], GenerationConfig(max_new_tokens=length))
    steps = []
    while engine.busy:
        steps.append([event.request for event in engine.step()])
    assert steps == [[0, 1], [1, 2], [1, 2], [3]]
