"""Choosing a token: each function against a slow and obvious one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.errors import RequestError
from handloom.inference import sampling
from handloom.inference.generation_config import SamplingParams
from handloom.inference.sampling import (
    logits_to_probs,
    sample,
    sample_logits,
    top_k_filter,
    top_p_filter,
    typical_p_filter,
)

# Multiples of a quarter: ties are frequent, and differences exact.
SCORES = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=1, max_size=30)


def softmax(scores, temperature=1.0):
    top = max(scores)
    powers = [math.exp((score - top) / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


def kept(scores):
    return [i for i, score in enumerate(scores.tolist()) if score != float("-inf")]


@given(SCORES, st.floats(0.05, 50))
def test_temperature_divides_the_scores(scores, temperature):
    found = logits_to_probs(torch.tensor([scores]), SamplingParams(temperature=temperature))
    torch.testing.assert_close(
        found[0].double(), torch.tensor(softmax(scores, temperature)).double(), rtol=1e-4, atol=1e-6
    )


@given(SCORES, st.sampled_from([1e-300, 5e-324, 1e-45, 1e-10, 1e38, 1e300]))
def test_no_temperature_makes_anything_but_probabilities(scores, temperature):
    found = logits_to_probs(torch.tensor([scores]), SamplingParams(temperature=temperature))[0]
    assert found.sum().item() == pytest.approx(1, abs=1e-4)
    assert (found >= 0).all()
    if temperature < 1:
        likeliest = {i for i, score in enumerate(scores) if score == max(scores)}
        assert {i for i, p in enumerate(found.tolist()) if p > 0} == likeliest


@given(SCORES)
def test_temperature_zero_takes_the_likeliest(scores):
    found = logits_to_probs(torch.tensor([scores]), SamplingParams(temperature=0))[0].tolist()
    assert sorted(found) == [0.0] * (len(scores) - 1) + [1.0]
    assert scores[found.index(1.0)] == max(scores)


@given(SCORES, st.integers(1, 40))
def test_top_k_keeps_the_k_likeliest_and_their_equals(scores, k):
    limit = sorted(scores, reverse=True)[min(k, len(scores)) - 1]
    assert kept(top_k_filter(torch.tensor(scores), k)) == [i for i, s in enumerate(scores) if s >= limit]


@given(SCORES, st.floats(0.01, 1))
def test_top_p_keeps_the_fewest_that_hold_p(scores, p):
    weights = softmax(scores)
    found = kept(top_p_filter(torch.tensor(scores, dtype=torch.float64), p))
    total = sum(weights[i] for i in found)
    assert total >= p - 1e-9
    assert min(weights[i] for i in found) >= max([weights[i] for i in range(len(scores)) if i not in found], default=0)
    assert total - min(weights[i] for i in found) < p + 1e-9  # one fewer would not do


def test_top_p_one_keeps_everything_however_long_the_tail():
    scores = torch.cat([torch.tensor([30.0]), torch.full((50_000,), -10.0)])
    assert top_p_filter(scores, 1.0) is scores


@pytest.mark.parametrize(("p", "wanted"), [(0.499, [0]), (0.501, [0, 2]), (0.799, [0, 2]), (0.801, [0, 1, 2])])
def test_top_p_counts_to_the_very_token(p, wanted):
    assert kept(top_p_filter(torch.tensor([0.5, 0.2, 0.3]).log(), p)) == wanted


def test_a_first_token_that_alone_holds_p_stays_alone():
    assert kept(top_p_filter(torch.tensor([0.0, 9.0, 1.0]), 0.5)) == [1]
    assert kept(top_p_filter(torch.tensor([0.0, 9.0, 1.0]), 1e-12)) == [1]


def test_the_order_is_temperature_then_top_k_then_top_p():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    # Flattened by the temperature, three stay by top-k, and two of those hold 0.6 of what is left.
    found = logits_to_probs(scores, SamplingParams(temperature=10, top_k=3, top_p=0.6))[0]
    a, b = math.exp(0.4), math.exp(0.3)
    assert found.tolist() == pytest.approx([a / (a + b), b / (a + b), 0, 0], abs=1e-6)


@given(
    st.lists(st.sampled_from([0.0, 0.0, 1e-12, 0.1, 1.0, 3.0]), min_size=1, max_size=20).filter(any),
    st.one_of(st.sampled_from([0.0, 0.5, 1 - 2**-53]), st.floats(0, 1, exclude_max=True)),
)
def test_a_draw_falls_where_the_cumulated_weights_say_and_never_on_zero(weights, uniform):
    chosen = sample(torch.tensor([weights]), torch.tensor([uniform], dtype=torch.float64)).item()
    assert weights[chosen] > 0
    single = torch.tensor(weights).double().tolist()  # as float32 has them
    assert sum(single[:chosen]) <= uniform * sum(single) + 1e-9
    assert sum(single[: chosen + 1]) >= uniform * sum(single) - 1e-9


def test_draws_are_as_frequent_as_they_are_probable():
    weights = [0.5, 0.0, 0.3, 0.15, 0.05]
    uniform = torch.from_numpy(np.random.default_rng(0).random(20_000))
    chosen = sample(torch.tensor([weights]).expand(20_000, 5), uniform)
    counts = torch.bincount(chosen, minlength=5)
    for count, weight in zip(counts.tolist(), weights, strict=True):
        assert abs(count - 20_000 * weight) <= 5 * math.sqrt(20_000 * weight * (1 - weight))


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ({"temperature": -0.5}, "temperature is -0.5; it must be at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": "warm"}, "temperature is 'warm'; it must be a number"),
        ({"temperature": None}, "temperature is None"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 2.5}, "top_k is 2.5; it must be a whole number"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"min_p": 0}, "min_p is 0"),
        ({"typical_p": 2}, "typical_p is 2"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be from 0.01 to 100"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty is inf"),
        ({"presence_penalty": -101}, "presence_penalty is -101"),
        ({"no_repeat_ngram_size": 0}, "no_repeat_ngram_size is 0"),
        ({"logit_bias": {1: float("nan")}}, "logit bias of 1 is nan"),
        ({"logit_bias": ["7"]}, "does not name a token"),
        ({"logit_bias": ["7=x"]}, "'7=x' is not a logit bias"),
        ({"logit_bias": [(True, 1.0)]}, "does not name a token"),
        ({"logit_bias": 3}, "must be pairs"),
        ({"logit_bias": "7=1"}, "must be pairs"),
        ({"bad_words": [""]}, "A bad word is empty"),
        ({"bad_words": [()]}, "A bad word is empty"),
        ({"bad_words": [[1, "a"]]}, "neither text nor a list of token ids"),
        ({"bad_words": 3}, "must be a list"),
    ],
)
def test_settings_without_meaning_are_refused_by_name(setting, part):
    with pytest.raises(RequestError, match=part.replace("(", r"\(")):
        SamplingParams(**setting)


def test_biases_come_as_a_mapping_as_pairs_and_as_text():
    assert SamplingParams(logit_bias={7: 1.0, "a=b": -2}).logit_bias == ((7, 1.0), ("a=b", -2))
    assert SamplingParams(logit_bias=["7=1", "a=b=-2"]).logit_bias == ((7, 1.0), ("a=b", -2.0))
    assert SamplingParams(bad_words="one").bad_words == ("one",)
    assert SamplingParams(bad_words=["one", [1, 2]]).bad_words == ("one", (1, 2))


@st.composite
def large_vocabularies(draw):
    """(2, 3000) logits: peaked or flat, with ties (quarters) or without, some forbidden."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = torch.randn(2, 3000, generator=generator) * draw(st.sampled_from([0.1, 1.0, 3.0, 8.0]))
    if draw(st.booleans()):
        logits = (logits * 4).round() / 4
    return logits.masked_fill(torch.rand(2, 3000, generator=generator) < draw(st.sampled_from([0, 0.5])), -math.inf)


@given(large_vocabularies(), st.floats(1e-6, 1))
def test_typical_p_of_the_nearest_512_is_that_of_sorting_everything(logits, p):
    with pytest.MonkeyPatch.context() as patch:
        found = typical_p_filter(logits, p)
        patch.setattr(sampling, "_BEST", 3000)
        assert found.equal(typical_p_filter(logits, p))


FILTERS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([None, 1, 7, 50, 2999, 5000]),
        "top_p": st.one_of(st.none(), st.floats(1e-6, 1), st.sampled_from([0.9, 0.9999999, 1.0])),
        "min_p": st.one_of(st.none(), st.floats(1e-9, 1)),
        "typical_p": st.sampled_from([None, None, None, 0.8]),
    }
)
UNIFORM = st.one_of(st.sampled_from([0.0, 0.5, 1 - 2**-53]), st.floats(0, 1, exclude_max=True))


@settings(max_examples=300)
@given(large_vocabularies(), FILTERS, st.lists(UNIFORM, min_size=2, max_size=2))
def test_a_draw_from_logits_is_that_from_the_whole_distribution(logits, values, uniform):
    """But where a random number or a limit lies within rounding of a border: there either neighbour is right."""
    params = SamplingParams(**values)
    found = sample_logits(logits, params, uniform)
    for row, token, number in zip(logits, found, uniform, strict=True):
        probs = logits_to_probs(row[None], params)  # (1, V)
        nearby = [min(max(number + shift, 0.0), 1 - 2**-53) for shift in (0, -2e-5, 2e-5)]
        wanted = [sample(probs, torch.tensor([one], dtype=torch.float64)).item() for one in nearby]
        assert token == wanted[0] or min(wanted) <= token <= max(wanted)
        assert row[token] > -math.inf


@given(large_vocabularies(), st.floats(1e-6, 1), UNIFORM)
def test_top_p_alone_and_temperature_alone_draw_from_the_very_same_tokens(logits, p, number):
    for params in (SamplingParams(temperature=1.0, top_p=p), SamplingParams(temperature=0.7)):
        probs = logits_to_probs(logits, params)
        for row, token in enumerate(sample_logits(logits, params, [number, number])):
            assert probs[row, token] > 0


def test_a_draw_never_sorts_the_vocabulary(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "sort", None)
    for scale in (4, 0.01):
        logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(1)) * scale
        assert len(sample_logits(logits, SamplingParams(top_p=0.9, top_k=50, min_p=0.01), [0.1, 0.9])) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_draw_some_token(bad):
    """The caller refuses them by their highest; here nothing may fail."""
    for values in ({}, {"top_p": 0.9}, {"top_k": 3}, {"min_p": 0.1}, {"typical_p": 0.5}):
        (token,) = sample_logits(torch.full((1, 600), bad), SamplingParams(**values), [0.5])
        assert 0 <= token <= 600
