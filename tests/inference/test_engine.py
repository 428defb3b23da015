"""ids -> ids: the cache changes nothing, rows do not meet, and the edge of the context is where it is said to be."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import Tune, lively

from decoding import generated
from handloom.errors import ModelError, RequestError
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.sampling import logits_to_probs, sample

GREEDY = {"temperature": 0}
LIVELY = {"temperature": 0.9, "top_k": 50, "top_p": 0.95}


@torch.no_grad()
def reread(model, prompt, request, row=0):
    """The same by reading everything again for every token: no cache, one row."""
    context_length = model.config.context_length
    key = np.array([request.seed, row], dtype=np.uint64)
    numbers = np.random.Generator(np.random.Philox(key=key))
    window, new = list(prompt), []
    if len(window) > context_length:
        window = window[-max(1, context_length // 2) :]
    for _ in range(request.max_new_tokens):
        if len(window) > context_length:
            window = window[-max(1, context_length // 2) :]
        logits = model(torch.tensor([window]))[:, -1]
        p = logits_to_probs(logits, request)
        new.append(sample(p, torch.tensor([numbers.random()], dtype=torch.float64)).item())
        window.append(new[-1])
    return new


@torch.no_grad()
def test_greedy_takes_the_highest_score_of_the_whole_text_at_every_step(model):
    prompt = [1, 2, 3]
    new = generated(model, [prompt], GenerationConfig(max_new_tokens=20, **GREEDY))[0]
    assert len(set(new)) > 1
    for at, token in enumerate(new):
        assert token == model(torch.tensor([prompt + new[:at]]))[0, -1].argmax().item()


@settings(max_examples=25, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 256), min_size=1, max_size=20), new=st.integers(1, 5), seed=st.integers(0, 2**64 - 1)
)
def test_with_the_cache_as_without_it(prompt, new, seed):
    model, request = lively(), GenerationConfig(max_new_tokens=new, **LIVELY, seed=seed)
    assert generated(model, [prompt], request)[0] == reread(model, prompt, request)


@pytest.mark.parametrize("context_length", [1, 2, 7, 24])
@pytest.mark.parametrize("length", [1, 6, 23, 24, 25, 60])
def test_slide_goes_on_from_the_last_half_as_a_reference_does(context_length, length):
    model = lively(context_length=context_length)
    prompt = [(7 * i) % 257 for i in range(length)]
    request = GenerationConfig(max_new_tokens=70, **LIVELY, seed=3, overflow="slide")
    assert generated(model, [prompt], request)[0] == reread(model, prompt, request)


def test_slide_goes_on_for_thousands_of_tokens_in_constant_memory():
    model = lively(context_length=16, layers=1, embed_dim=8)
    read = []
    hidden = model.hidden
    model.hidden = lambda tokens, cache: read.append(tokens.shape[1]) or hidden(tokens, cache)
    chosen = generated(model, [[1]], GenerationConfig(max_new_tokens=3000, temperature=1.0, overflow="slide"))[0]
    assert len(chosen) == 3000
    assert max(read) <= 8  # never more than the half that is read again
    assert sum(read) < 3000 * 3


def test_a_row_is_the_same_whatever_its_neighbours(model):
    prompt, request = [5, 6, 7], GenerationConfig(max_new_tokens=15, **LIVELY, seed=11)
    single, three = generated(model, [prompt], request), generated(model, [prompt] * 3, request)
    assert three[0] == single[0]
    assert len({tuple(row) for row in three}) == 3
    for row in range(3):
        assert three[row] == reread(model, prompt, request, row)


def test_the_seed_decides(model):
    def text(seed):
        return generated(model, [[1, 2]], GenerationConfig(max_new_tokens=12, **LIVELY, seed=seed))

    assert text(0) == text(0)
    assert text(0) != text(1)
    assert len(text(2**64 - 1)[0]) == 12


@pytest.mark.parametrize(("length", "new"), [(1, 24), (20, 5), (24, 1)])
def test_the_context_may_be_filled_to_its_last_place(model, length, new):
    assert length + new - 1 == model.config.context_length
    assert len(generated(model, [[1] * length], GenerationConfig(max_new_tokens=new, **GREEDY))[0]) == new
    with pytest.raises(RequestError) as raised:
        generated(model, [[1] * length], GenerationConfig(max_new_tokens=new + 1, **GREEDY))
    assert f"A prompt of {length} tokens and {new + 1} new ones" in raised.value.problem
    assert f"at most {new}, or pass `overflow=slide`" in raised.value.remedy
    assert raised.value.setting == "max_new_tokens"


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(model):
    with pytest.raises(RequestError, match="The prompt has 25 tokens, and the model's context is 24"):
        generated(model, [[1] * 25], GenerationConfig(max_new_tokens=1, **GREEDY))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_damaged_weights_are_an_error_and_no_text(model, value, temperature):
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.blocks[0].feedforward.up.weight[0, 0] = value
    with pytest.raises(ModelError, match="not finite"):
        generated(damaged, [[1, 2]], GenerationConfig(max_new_tokens=3, temperature=temperature))


def test_a_uniform_number_just_below_one_is_still_a_token(monkeypatch):
    class Highest:
        def __init__(self, *_):
            pass

        def random(self):
            return 1 - 2**-53

    monkeypatch.setattr(np.random, "Generator", Highest)
    tokens = generated(lively(), [[1]], GenerationConfig(max_new_tokens=5, temperature=1.0))[0]
    assert all(0 <= token < 257 for token in tokens)


def test_the_prompt_is_read_once_and_then_one_token_at_a_time():
    tune, read = Tune([1, 2, 3, 4]), []
    hidden = tune.hidden
    tune.hidden = lambda tokens, cache: read.append(tokens.tolist()) or hidden(tokens, cache)
    assert generated(tune, [[9, 8, 7]], GenerationConfig(max_new_tokens=4, **GREEDY)) == [[1, 2, 3, 4]]
    assert read == [[[9, 8, 7]], [[1]], [[2]], [[3]]]


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 1.5}, "must be a whole number"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "below 2\\^64"),
        ({"seed": "x"}, "must be a whole number"),
        ({"overflow": "wrap"}, "overflow is 'wrap'; it must be one of error, slide"),
        ({"min_new_tokens": 101}, "min_new_tokens is 101; it must be from 0 to max_new_tokens, which is 100"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": 2, **LIVELY}, "top_k cannot be combined with num_beams=2"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"forced_eos": 1}, "forced_eos is 1"),
    ],
)
def test_requests_without_meaning_are_refused_by_name(setting, part):
    with pytest.raises(RequestError, match=part):
        GenerationConfig(**setting)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_ids_beyond_the_vocabulary_are_never_chosen(temperature):
    """A model may have more ids than its tokenizer, so that its size is a round number."""
    model = lively(vocab_size=64, context_length=16)
    prompts, settings = [[0]] * 8, {"max_new_tokens": 15, "temperature": temperature}
    assert max(map(max, generated(model, prompts, GenerationConfig(**settings)))) >= 5
    assert max(map(max, generated(model, prompts, GenerationConfig(**settings, vocab_size=5)))) < 5
