"""Prompt-lookup speculation: the same tokens for the same seeds, by fewer passes, and a pause where it does not pay."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import Tune, lively

from decoding import generated
from handloom.errors import RequestError
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.prompt_lookup import NgramIndex, Speculation
from handloom.inference.sampling import logits_to_probs
from handloom.quantization.packed import pack_model

CONTEXT = 24
MODEL = lively(context_length=CONTEXT, layers=1, vocab_size=12)
SETTINGS = st.fixed_dictionaries(
    {
        "max_new_tokens": st.integers(1, 40),
        "temperature": st.sampled_from([0.0, 0.9, 2.0]),
        "top_p": st.sampled_from([None, 0.8]),
        "repetition_penalty": st.sampled_from([1.0, 1.2]),
        "seed": st.integers(0, 50),
        "logprobs": st.sampled_from([None, 2]),
        "eos_token_ids": st.sampled_from([(), (3,)]),
    }
)


@pytest.fixture(autouse=True)
def _always_pays(monkeypatch):
    """Whatever it costs on this machine: with pauses, hardly anything would be verified here."""
    monkeypatch.setattr(Speculation, "cost", 0.0)


def events_of(model, prompt, config):
    engine = Engine(model)
    engine.add(prompt, config)
    return list(engine.run()), engine.speculation


@settings(max_examples=150, deadline=None)
@given(prompt=st.lists(st.integers(0, 4), min_size=1, max_size=CONTEXT + 8), values=SETTINGS, count=st.integers(1, 30))
def test_tokens_log_probabilities_and_ends_are_those_without_it(prompt, values, count):
    config = GenerationConfig(**values, overflow="slide")
    found, _ = events_of(MODEL, prompt, config.changed(prompt_lookup_num_tokens=count))
    wanted, _ = events_of(MODEL, prompt, config)
    assert [(one.token, one.finish_reason) for one in found] == [(one.token, one.finish_reason) for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.logprob == (None if other.logprob is None else pytest.approx(other.logprob, abs=1e-3))


@pytest.mark.parametrize("precision", ["int8", "int4", "fp16"])
def test_packed_models_verify_through_their_modules(precision):
    model = pack_model(lively(context_length=128, embed_dim=32), precision)
    config = GenerationConfig(max_new_tokens=60, temperature=0)
    found, speculation = events_of(model, [1, 2, 3, 1, 2, 3, 1, 2], config.changed(prompt_lookup_num_tokens=3))
    assert [one.token for one in found] == [one.token for one in events_of(model, [1, 2, 3, 1, 2, 3, 1, 2], config)[0]]
    assert speculation.passes > 0


def test_texts_have_the_distribution_of_the_model():
    """Chi-square over seeds, of the four tokens after a prompt in which every pair of tokens has been continued."""
    model = lively(seed=5, vocab_size=3, context_length=40, layers=1)
    prompt = [0, 0, 1, 0, 2, 1, 1, 2, 2, 0, 0]
    config = GenerationConfig(max_new_tokens=4, temperature=6.0, prompt_lookup_num_tokens=2)
    seen, accepted, seeds = Counter(), Counter(), 2000
    for seed in range(seeds):
        engine = Engine(model)
        engine.speculation.seconds[False] = 1.0  # as if a token alone had been measured: so the second step proposes
        engine.add(prompt, config.changed(seed=seed))
        seen[tuple(event.token for event in engine.run())] += 1
        accepted[engine.speculation.accepted] += 1
    assert min(accepted[0], accepted[1], accepted[2]) > 50
    texts = list(itertools.product(range(3), repeat=4))
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *text] for text in texts]))[:, len(prompt) - 1 : -1]  # (81, 4, V)
    chances = logits_to_probs(logits, config).gather(-1, torch.tensor(texts)[..., None]).prod(dim=1)[:, 0]
    wanted = {text: seeds * chance for text, chance in zip(texts, chances.tolist(), strict=True)}
    frequent = {text: count for text, count in wanted.items() if count >= 5}
    assert len(frequent) > 20
    chi = sum((seen[text] - count) ** 2 / count for text, count in frequent.items())
    assert chi < len(frequent) + 4 * math.sqrt(2 * len(frequent))


def test_a_text_that_repeats_takes_fewer_passes_and_reads_each_token_once():
    tune = Tune([1, 2, 3, 4, 5, 6] * 3, context_length=64)
    read, hidden, unembed = [], tune.hidden, tune.unembed

    tune.hidden = lambda tokens, cache: read.append(tokens.shape[1]) or hidden(tokens, cache)
    tune.unembed = lambda states: torch.cat([unembed(states[:1]) for _ in states])
    config = GenerationConfig(max_new_tokens=13, temperature=0, prompt_lookup_num_tokens=4)
    assert generated(tune, [[1, 2, 3, 4, 5, 6]], config) == [([1, 2, 3, 4, 5, 6] * 3)[:13]]
    # The prompt, a token alone to measure it, two with four proposed ones each, and what is left.
    assert read == [6, 1, 5, 5, 1]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 9))
def test_what_followed_the_longest_ngram_the_last_time_is_proposed(ids, count):
    def slow():
        for n in (3, 2):
            for end in range(len(ids) - 1, n - 1, -1):
                if ids[end - n : end] == ids[-n:]:
                    grown = list(ids)
                    for place in range(count):
                        grown.append(grown[end + place])
                    return grown[len(ids) :]
        return []

    growing, index = [], None
    for token in ids:
        growing.append(token)
        index = index or NgramIndex(growing)
        found = index.propose(count)
    if ids:
        assert found == slow() == NgramIndex(ids).propose(count)


def test_below_break_even_attempts_cost_a_small_share_of_the_time_and_it_comes_back_when_it_pays(monkeypatch):
    monkeypatch.undo()
    speculation, index = Speculation(), NgramIndex([1, 2, 1, 2])
    assert speculation.propose(index, 3) == []  # one token alone is measured first
    speculation.record(1.0, 0, 0)

    def written(steps, accepted, cost=2.5):
        """Tokens and time of some steps in which so many proposed tokens are accepted."""
        tokens = time = 0.0
        for _ in range(steps):
            proposed = len(speculation.propose(index, 3))
            speculation.record(cost if proposed else 1.0, proposed, accepted if proposed else 0)
            tokens, time = tokens + 1 + (accepted if proposed else 0), time + (cost if proposed else 1.0)
        return tokens / time

    assert 0.965 < written(1000, 0) < 0.99
    assert speculation.cost == 2.5
    assert written(1000, 1) > 0.965
    written(200, 3)
    assert written(100, 3) == pytest.approx(4 / 2.5)
    speculation.record(1000.0, 3, 0)  # an interruption by the system is no reason for a long pause
    written(400, 3)
    assert written(100, 3) == pytest.approx(4 / 2.5)


def test_it_needs_a_text_alone_and_sampling(lm):
    config = GenerationConfig(max_new_tokens=8, temperature=0, prompt_lookup_num_tokens=4)
    assert lm.complete_batch(["aaaa", "abab"], config) == lm.complete_batch(
        ["aaaa", "abab"], config.changed(prompt_lookup_num_tokens=None)
    )
    with pytest.raises(RequestError, match="prompt_lookup_num_tokens cannot be combined with num_beams=2"):
        config.changed(num_beams=2)
    assert GenerationConfig.of(prompt_lookup_num_tokens=0, do_sample=True).prompt_lookup_num_tokens is None
