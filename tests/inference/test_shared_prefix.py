"""Prefill in pieces, and a shared prefix once: logits, cache and tokens are those of each text alone in one pass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import lively

from decoding import generated
from handloom.inference import batch as module
from handloom.inference.batch import Batch
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

MODEL = lively(context_length=20, layers=1)
PREFIX = st.lists(st.integers(0, 256), max_size=12)
TAILS = st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 3), max_size=10), st.integers(0, 6)), max_size=7)


@pytest.fixture(autouse=True)
def _share_any_prefix(monkeypatch):
    monkeypatch.setattr(module, "SHARED", 1)


def counted(model):
    """How many tokens a model reads in each pass, padding included."""
    read, hidden = [], model.hidden
    model.hidden = lambda tokens, cache: read.append(tokens.numel()) or hidden(tokens, cache)
    return read


@settings(max_examples=80)
@given(prefixes=st.tuples(PREFIX, PREFIX), tails=TAILS, max_rows=st.sampled_from([None, 1, 2, 3]))
def test_tokens_are_those_of_each_prompt_alone_whatever_is_shared_and_whoever_joins(prefixes, tails, max_rows):
    config = GenerationConfig(max_new_tokens=6, temperature=0.9, top_p=0.9, overflow="slide", eos_token_ids=(3, 9))
    prompts = [prefixes[which] + tail for which, tail, _ in tails]
    prompts = [prompt or [1] for prompt in prompts]
    engine, new, step = Engine(MODEL, max_rows=max_rows), {}, 0
    joins = [joins for _, _, joins in tails]
    while engine.busy or step <= max(joins, default=0):
        for row in [row for row, at in enumerate(joins) if at == step]:
            new[engine.add(prompts[row], config, row=row)] = row, []
        for event in engine.step():
            new[event.request][1].append(event.token)
        step += 1
    for row, found in new.values():
        assert [found] == generated(MODEL, [prompts[row]], config, [row])


@settings(max_examples=60)
@given(
    prefix=PREFIX,
    tails=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=1, max_size=5),
    in_a_pass=st.sampled_from([1, 3, 10, 1000]),
)
def test_logits_and_cache_are_those_of_each_prompt_alone(prefix, tails, in_a_pass):
    model = GPT(GPTConfig(vocab_size=257, context_length=24, layers=3, heads=2, embed_dim=16), seed=3).eval()
    together = Batch(model)
    for tail in tails:
        together.add(prefix + tail, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PASS", in_a_pass)
        found = together.next_logits()
    for row, tail in enumerate(tails):
        alone = Batch(model)
        alone.add(prefix + tail, 4)
        torch.testing.assert_close(found[row : row + 1], alone.next_logits(), atol=1e-5, rtol=0)
        length = alone._cache.lengths[0]
        assert together._cache.lengths[row] == length
        for mine, theirs in zip(together._cache.layers, alone._cache.layers, strict=True):
            torch.testing.assert_close(mine.keys[row, :, :length], theirs.keys[0, :, :length], atol=1e-5, rtol=0)
            torch.testing.assert_close(mine.values[row, :, :length], theirs.values[0, :, :length], atol=1e-5, rtol=0)


def test_a_prompt_of_several_samples_is_read_once():
    model = lively(context_length=64)
    read = counted(model)
    generated(model, [list(range(40))] * 5, GenerationConfig(max_new_tokens=2))
    assert read == [39, 5, 5]


def test_a_common_system_prompt_is_read_once_and_the_rest_side_by_side():
    model = lively(context_length=64)
    read = counted(model)
    system = list(range(40))
    generated(model, [[*system, 1, 2, 3, 4], [*system, 5, 6, 7], [*system, 8]], GenerationConfig(max_new_tokens=1))
    assert read == [43, 2, 3]  # the third has only its last token left, which is read with those of the others


def test_a_row_that_joins_copies_from_one_that_runs():
    model = lively(context_length=64)
    engine, config = Engine(model), GenerationConfig(max_new_tokens=3)
    engine.add(list(range(40)), config)
    engine.step()
    read = counted(model)
    engine.add([*range(40), 7, 8], config)
    engine.step()
    assert read == [1, 2]


@pytest.mark.parametrize(("rows", "passes"), [(1, [16, 16, 8]), (2, [16] * 5), (16, [16] * 40), (40, [40] * 40)])
def test_a_pass_reads_no_more_tokens_than_it_may_and_at_least_one_of_each_row(monkeypatch, rows, passes):
    monkeypatch.setattr(module, "SHARED", 1000)
    monkeypatch.setattr(module, "PASS", 16)
    model = lively(context_length=64)
    read = counted(model)
    generated(model, [list(range(40))] * rows, GenerationConfig(max_new_tokens=1))
    assert read == passes


def test_short_prefixes_are_not_shared_and_prompts_of_one_length_are_read_together(monkeypatch):
    monkeypatch.undo()
    model = lively(context_length=64)
    read = counted(model)
    generated(model, [list(range(31))] * 2, GenerationConfig(max_new_tokens=1))
    assert read == [62]
