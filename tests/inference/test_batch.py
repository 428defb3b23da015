"""Prompts of different lengths side by side are the same prompts alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import NeverEnds, lively

from decoding import generated
from handloom.data.windows import Window
from handloom.errors import ModelError, RequestError
from handloom.evaluation.calibration import calibrate
from handloom.evaluation.scoring import score_windows
from handloom.inference.batch import Batch
from handloom.inference.beam import beam_search
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.logprobs import prompt_logprobs, token_logprobs
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.kv_cache import KVCache
from handloom.model.surgery import set_attention

PROMPTS = st.lists(st.lists(st.integers(0, 256), min_size=1, max_size=30), min_size=1, max_size=5)


def batch_of(model, prompts, room):
    """A batch of copies of these prompts."""
    batch = Batch(model)
    for prompt in prompts:
        batch.add(list(prompt), room)
    return batch


def tame(context_length=12, **shape):
    """Random weights at which no rounding grows: for comparisons by number."""
    values = {"vocab_size": 257, "context_length": context_length, "layers": 3, "heads": 2, "embed_dim": 16, **shape}
    return GPT(GPTConfig(**values), seed=3).eval()


@pytest.mark.parametrize("fused", [True, False])
@settings(max_examples=30, deadline=None)
@given(prompts=PROMPTS, steps=st.integers(1, 30), keep=st.randoms(use_true_random=False))
def test_logits_are_those_of_each_row_alone_whoever_joins_leaves_or_moves(fused, prompts, steps, keep):
    model = tame()
    set_attention(model, "sdpa" if fused else "eager")
    together = batch_of(model, prompts, steps)
    alone = {row: batch_of(model, [prompt], steps) for row, prompt in enumerate(prompts)}
    running = list(alone)
    for step in range(steps):
        found = together.next_logits()
        for scores, row in zip(found, running, strict=True):
            torch.testing.assert_close(scores, alone[row].next_logits()[0], atol=1e-5, rtol=0)
        tokens = [(31 * step + 7 * row) % 257 for row in running]
        for text, row, token in zip(together.texts, running, tokens, strict=True):
            text.append(token)
            alone[row].texts[0].append(token)
        if len(running) > 1 and keep.random() < 0.2:
            place = keep.randrange(len(running))
            together.remove(place)
            running[place] = running[-1]
            running.pop()
        if keep.random() < 0.2:
            places = keep.sample(range(len(running)), keep.randint(1, len(running)))
            together.select(places)
            running = [running[place] for place in places]
        if keep.random() < 0.2:
            prompt = keep.choices(range(257), k=keep.randint(1, 30))
            together.add(list(prompt), steps)
            running.append(len(alone))
            alone[running[-1]] = batch_of(model, [prompt], steps)


def test_a_prompt_of_a_length_of_its_own_is_read_as_alone_to_the_bit():
    model, hidden = tame(), []
    unembed = model.unembed
    model.unembed = lambda x: hidden.append(x) or unembed(x)
    prompts = [[1, 2, 3, 4], [9, 8, 7, 6], [5, 5, 5]]
    batch_of(model, prompts, 3).next_logits()
    batch_of(model, prompts[2:], 3).next_logits()
    assert hidden[0][2].equal(hidden[1][0])


def test_a_cache_of_uneven_rows_answers_as_each_row_does():
    model = tame()
    cache = KVCache(model.config, batch=2)
    rows = [[1, 2, 3, 4, 5], [6, 7]]
    wanted = []
    for row, tokens in enumerate(rows):
        part = KVCache(model.config, batch=1)
        model(torch.tensor([tokens]), part)
        cache.write_rows([row], part)
        wanted.append(model(torch.tensor([[*tokens, 8, 9, 10]]))[0, -3:])
    assert cache.lengths == [5, 2]
    assert cache.next_position.tolist() == [[5], [2]]
    found = model(torch.tensor([[8, 9, 10]] * 2), cache)
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=0)
    assert cache.lengths == [8, 5]
    cache.select_rows([1, 0, 1])
    assert cache.lengths == [5, 8, 5]
    cache.crop(6)
    assert cache.lengths == [5, 6, 5]
    cache.reset_row(1)
    assert (cache.lengths, cache.length) == ([5, 0, 5], 5)


@settings(max_examples=20, deadline=None)
@given(prompts=PROMPTS, new=st.integers(1, 25), seed=st.integers(0, 2**32))
def test_texts_do_not_depend_on_what_is_generated_with_them(prompts, new, seed):
    model = lively(context_length=12, layers=1)
    config = GenerationConfig(max_new_tokens=new, temperature=0.9, top_k=50, top_p=0.95, seed=seed, overflow="slide")
    rows = [7 * row % 3 for row in range(len(prompts))]
    together = generated(model, prompts, config, rows)
    for prompt, row, found in zip(prompts, rows, together, strict=True):
        assert [found] == generated(model, [prompt], config, [row])


def test_rows_that_left_are_not_computed_and_no_other_row_is_copied(monkeypatch):
    model, seen, copied = lively(), [], []
    unembed, remove = model.unembed, KVCache.remove_row
    model.unembed = lambda hidden: seen.append(len(hidden)) or unembed(hidden)
    monkeypatch.setattr(KVCache, "remove_row", lambda cache, row: copied.append(cache.lengths) or remove(cache, row))
    engine = Engine(model)
    requests = [engine.add(prompt, GenerationConfig(max_new_tokens=5)) for prompt in ([1], [2, 3], [4])]
    buffers = None
    for cancelled, running in ((None, {0, 1, 2}), (1, {0, 2}), (7, {0, 2}), (0, {2})):
        if cancelled is not None:
            assert (engine.cancel(cancelled) is None) == (cancelled not in requests)
        assert {event.request for event in engine.step()} == running
        keys = engine._batch._cache.layers[0].keys
        assert buffers is None or keys.data_ptr() == buffers
        buffers = keys.data_ptr()
    assert seen == [3, 2, 2, 1]
    assert len(copied) == 2


def test_log_probabilities_are_the_models_own():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log() + 3
    (one,) = token_logprobs(logits, [2], 2)
    assert one.token == 2
    assert one.logprob == pytest.approx(torch.tensor(0.15).log().item(), abs=1e-6)
    assert [token for token, _ in one.top] == [0, 1]
    assert one.top[1][1] == pytest.approx(torch.tensor(0.25).log().item(), abs=1e-6)
    assert token_logprobs(logits, [2], None)[0].logprob is None
    assert token_logprobs(logits, [2], 0)[0].top == ()
    assert len(token_logprobs(logits, [2], 100)[0].top) == 4


@pytest.mark.parametrize("length", [1, 2, 12, 13, 40])
def test_a_prompt_has_its_own_log_probabilities(length):
    model = tame(context_length=12)
    prompt = [(5 * i) % 257 for i in range(length)]
    found = prompt_logprobs(model, prompt, 1)
    assert [choice.token for choice in found] == prompt
    begin = 0 if length <= 12 else length - 6
    assert all(choice.logprob is None for choice in found[: begin + 1])
    logprobs = model(torch.tensor([prompt[begin:]])).log_softmax(-1)[0]
    for at in range(begin + 1, length):
        wanted = logprobs[at - 1 - begin]
        assert found[at].logprob == pytest.approx(wanted[prompt[at]].item(), abs=1e-5)
        assert found[at].top[0][0] == wanted.argmax().item()


def test_long_prompts_are_scored_in_parts_that_fit_together():
    model = tame(context_length=200)
    prompt = [(5 * i) % 257 for i in range(170)]
    logprobs = model(torch.tensor([prompt])).log_softmax(-1)[0]
    found = [choice.logprob for choice in prompt_logprobs(model, prompt, 0)]
    wanted = [logprobs[at, token].item() for at, token in enumerate(prompt[1:])]
    assert found[1:] == pytest.approx(wanted, abs=1e-5)


def test_tokens_that_there_are_not_are_refused():
    for how in ({"logit_bias": {257: 1.0}}, {"bad_words": ((1, -1),)}, {"eos_token_ids": (300,)}):
        with pytest.raises(RequestError, match="There is no token"):
            Engine(tame()).add([1], GenerationConfig(max_new_tokens=3, **how))
    for prompt in ([257], [1, -1]):
        with pytest.raises(ModelError, match="The token ids range"):
            Engine(tame()).add(prompt, GenerationConfig(max_new_tokens=3))


def test_ids_that_stand_for_nothing_are_never_chosen_and_have_the_probability_that_the_model_gives_them():
    model = lively()
    request = GenerationConfig(max_new_tokens=20, temperature=5.0, overflow="slide", logprobs=257, vocab_size=7)
    engine = Engine(model)
    for prompt in ([1, 2], [3]):
        engine.add(prompt, request)
    for event in engine.run():
        assert event.token < 7
        assert len(event.top) == 257
        assert sum(math.exp(logprob) for _, logprob in event.top) == pytest.approx(1, abs=1e-5)
    (found,) = beam_search(model, [1], GenerationConfig(max_new_tokens=5, num_beams=4, vocab_size=7), 1, NeverEnds())
    assert all(choice.token < 7 for choice in found.token_logprobs)
    gaps = GenerationConfig(max_new_tokens=20, temperature=5.0, overflow="slide", vocab_size=9, unused_ids=(0, 2, 3, 5))
    assert {token for text in generated(model, [[1, 2], [3]], gaps) for token in text} == {1, 4, 6, 7, 8}


def test_a_token_has_one_likelihood_wherever_it_is_asked_for():
    """Of a new token, of one in a prompt, in an evaluation, of a beam: that over all ids of the model."""
    model, prompt = lively(), [1, 2, 3]
    engine = Engine(model)
    engine.add(prompt, GenerationConfig(max_new_tokens=1, temperature=0.0, logprobs=0, vocab_size=7))
    (new,) = engine.step()
    text = [*prompt, new.token]
    expected = model(torch.tensor([prompt]))[0, -1].log_softmax(-1)[new.token].item()
    assert new.logprob == pytest.approx(expected, abs=1e-5)
    assert prompt_logprobs(model, text, 0)[-1].logprob == pytest.approx(expected, abs=1e-5)
    window = Window(np.array(prompt), np.array([new.token]))
    assert -next(score_windows(model, [window], 1)).nll[0] == pytest.approx(expected, abs=1e-5)
    (beam,) = beam_search(
        model, prompt, GenerationConfig(max_new_tokens=1, num_beams=2, logprobs=0, vocab_size=7), 1, NeverEnds()
    )
    assert (beam.token_logprobs[0].token, beam.token_logprobs[0].logprob) == (
        new.token,
        pytest.approx(expected, abs=1e-5),
    )
    assert calibrate(model, [np.array(text)], context_length=16).confidence == pytest.approx(
        float(np.mean([model(torch.tensor([text[:n]]))[0, -1].softmax(-1).max().item() for n in (1, 2, 3)])), abs=1e-5
    )
