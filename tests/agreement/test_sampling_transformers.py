"""Every way of changing scores, against the processor of the same name in transformers, and against definitions."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from decoding import generated
from handloom.errors import RequestError
from handloom.inference import logits_processors
from handloom.inference import sampling as alone
from handloom.inference.generation_config import GenerationConfig, SamplingParams
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

V = 23
END = V - 1
quick = settings(deadline=None, max_examples=60)


@st.composite
def scores(draw, rows=2):
    """(B, V) of all different scores: how equals are treated at a limit is a matter of taste."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return torch.randn(rows, V, generator=generator) * draw(st.sampled_from([0.1, 1.0, 4.0]))


def texts(least=0, most=30):
    """Two texts of the same length, as transformers wants them, with many repetitions."""
    one = st.integers(least, most).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n), min_size=2, max_size=2)
    )
    return one


def ids(rows):
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), -1)


def same(ours, reference):
    """The same probabilities."""
    torch.testing.assert_close(ours.softmax(-1), reference.softmax(-1), atol=1e-6, rtol=0)


@quick
@given(scores(), st.floats(0.05, 20))
def test_temperature(logits, temperature):
    same(alone.scale_temperature(logits, temperature), theirs.TemperatureLogitsWarper(temperature)(None, logits))


@quick
@given(scores(), st.integers(1, V + 3))
def test_top_k(logits, k):
    same(alone.top_k_filter(logits, k), theirs.TopKLogitsWarper(k)(None, logits))


def near_a_limit(held, limit):
    """Whether rounding decides which side of the limit a token falls on."""
    return ((held - limit).abs() < 1e-5).any()


@quick
@given(scores(), st.floats(0.01, 0.99))
def test_top_p(logits, p):
    assume(not near_a_limit(logits.sort(descending=True).values.softmax(-1).cumsum(-1), p))
    same(alone.top_p_filter(logits, p), theirs.TopPLogitsWarper(p)(None, logits))


@quick
@given(scores(), st.floats(0.01, 1))
def test_min_p(logits, share):
    same(alone.min_p_filter(logits, share), theirs.MinPLogitsWarper(share)(None, logits))


@quick
@given(scores(), st.floats(0.01, 0.99))
def test_typical(logits, mass):
    p = logits.softmax(-1)
    surprise = -p.log()
    order = (surprise - (p * surprise).sum(-1, keepdim=True)).abs().argsort(-1)
    assume(not near_a_limit(p.gather(-1, order).cumsum(-1), mass))
    same(alone.typical_p_filter(logits, mass), theirs.TypicalLogitsWarper(mass)(None, logits))


def test_typical_of_scores_that_are_forbidden_already():
    logits = torch.tensor([[2.0, 1.0, float("-inf"), 0.5]])
    same(alone.typical_p_filter(logits, 0.5), theirs.TypicalLogitsWarper(0.5)(None, logits))
    assert alone.typical_p_filter(logits, 1.0) is logits


@quick
@given(scores(), texts(1), st.floats(0.1, 10))
def test_repetition_penalty(logits, rows, penalty):
    same(
        logits_processors.penalize_repetition(logits, rows, penalty),
        theirs.RepetitionPenaltyLogitsProcessor(penalty)(ids(rows), logits),
    )


@quick
@given(scores(), texts(), st.integers(1, 5))
def test_no_repeat_ngram(logits, rows, n):
    same(
        logits_processors.ban_repeated_ngrams(logits, rows, n),
        theirs.NoRepeatNGramLogitsProcessor(n)(ids(rows), logits),
    )


WORDS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=5)


@quick
@given(scores(), texts(5), WORDS)
def test_bad_words(logits, rows, words):
    distinct = [list(word) for word in {tuple(word) for word in words}]
    same(
        logits_processors.ban_words(logits, rows, distinct),
        theirs.NoBadWordsLogitsProcessor(distinct)(ids(rows), logits),
    )


@quick
@given(scores(), texts(5), st.dictionaries(st.integers(0, END), st.floats(-20, 20), min_size=1))
def test_logit_bias(logits, rows, bias):
    reference = theirs.SequenceBiasLogitsProcessor({(token,): amount for token, amount in bias.items()})
    same(logits_processors.bias_tokens(logits, bias.items()), reference(ids(rows), logits))


@quick
@given(scores(), texts(3), st.integers(0, 30))
def test_minimum_length(logits, rows, least):
    new = [row[3:] for row in rows]
    reference = theirs.MinNewTokensLengthLogitsProcessor(3, least, END)
    same(logits_processors.hold_off_end(logits, new, (END,), least), reference(ids(rows), logits))


@quick
@given(scores(), texts(3), st.integers(1, 30))
def test_forced_end(logits, rows, most):
    new = [row[3:] for row in rows]
    reference = theirs.ForcedEOSTokenLogitsProcessor(3 + most, END)
    same(logits_processors.forced_eos(logits, new, (END,), most), reference(ids(rows), logits))


@quick
@given(scores(), texts(), st.floats(-3, 3), st.floats(-3, 3))
def test_frequency_and_presence_penalties_by_their_definition(logits, rows, frequency, presence):
    wanted = logits.tolist()
    for row, text in zip(wanted, rows, strict=True):
        for token, count in Counter(text).items():  # mu[j] - c[j] * frequency - (c[j] > 0) * presence
            row[token] -= count * frequency + presence
    same(logits_processors.penalize_frequency(logits, rows, frequency, presence), torch.tensor(wanted))


@quick
@given(scores(), texts(6))
def test_all_of_them_in_order(logits, rows):
    how = {
        "temperature": 0.7,
        "top_k": 15,
        "top_p": 0.95,
        "min_p": 0.01,
        "typical_p": 0.9,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "bad_words": ((1, 2), (3,)),
        "logit_bias": {4: 1.5},
    }
    ours = logits_processors.process_logits(
        logits, rows, [6, 6], GenerationConfig(**how, min_new_tokens=20, eos_token_ids=(END,))
    )
    reference = transformers.LogitsProcessorList(
        [
            theirs.SequenceBiasLogitsProcessor({(4,): 1.5}),
            theirs.RepetitionPenaltyLogitsProcessor(1.3),
            theirs.NoRepeatNGramLogitsProcessor(3),
            theirs.NoBadWordsLogitsProcessor([[1, 2], [3]]),
            theirs.MinNewTokensLengthLogitsProcessor(6, 20, END),
            theirs.TemperatureLogitsWarper(0.7),
            theirs.TopKLogitsWarper(15),
            theirs.TopPLogitsWarper(0.95),
            theirs.MinPLogitsWarper(0.01),
            theirs.TypicalLogitsWarper(0.9),
        ]
    )
    wanted = reference(ids(rows), logits).softmax(-1)
    found = alone.logits_to_probs(ours, SamplingParams(**how))
    assume(int((found > 0).sum()) == int((wanted > 0).sum()))  # else rounding decided at a limit
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_nothing_asked_is_nothing_changed():
    logits = torch.randn(2, V)
    assert logits_processors.process_logits(logits, [[1], [2, 3]], [1, 1], GenerationConfig()).equal(logits)


def test_the_functions_are_pure_and_take_rows_of_any_length():
    logits = torch.randn(3, V)
    before, rows = logits.clone(), [[], [1], [1, 2, 1, 2, 1]]
    logits_processors.bias_tokens(logits, [(1, 2.0)])
    logits_processors.penalize_repetition(logits, rows, 2.0)
    logits_processors.penalize_frequency(logits, rows, 1.0, 1.0)
    logits_processors.ban_words(logits, rows, [(1, 2), (1,)])
    logits_processors.hold_off_end(logits, rows, (END,), 3)
    logits_processors.forced_eos(logits, rows, (END,), 1)
    banned = logits_processors.ban_repeated_ngrams(logits, rows, 2)
    assert logits.equal(before)
    assert (banned == -math.inf).nonzero().tolist() == [[2, 2]]


def test_only_new_tokens_count_for_frequency_and_presence():
    logits = torch.zeros(1, V)
    asked = GenerationConfig(frequency_penalty=1.0, presence_penalty=0.5)
    found = logits_processors.process_logits(logits, [[7, 7, 8, 8]], [2], asked)
    assert found[0, 7] == 0
    assert found[0, 8] == -2.5


def test_a_text_that_cannot_go_on_is_an_error():
    everything = tuple((token,) for token in range(V))
    model = GPT(GPTConfig(vocab_size=V, context_length=8, layers=1, heads=1, embed_dim=4)).eval()
    with pytest.raises(RequestError, match="Every token is forbidden"):
        generated(model, [[1]], GenerationConfig(max_new_tokens=3, bad_words=everything))
    for how, problem in (({"min_new_tokens": 1}, "No id ends"), ({"bad_words": ("word",)}, "is not a token id")):
        with pytest.raises(RequestError, match=problem):
            generated(model, [[1]], GenerationConfig(max_new_tokens=3, **how))
