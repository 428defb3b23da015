"""Rows of a cache join, leave, grow and shrink; what the others hold stays what it was."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

CONFIG = GPTConfig(vocab_size=61, context_length=16, layers=2, heads=2, embed_dim=8)
MODEL = GPT(CONFIG, seed=1).eval()


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(actions=st.lists(st.tuples(st.sampled_from("ard"), st.integers(0, 100)), max_size=12))
def test_rows_that_join_and_leave_do_not_change_the_others(actions):
    cache, texts = MODEL.new_cache(0, 0), []
    for what, number in actions:
        if what == "a":
            prompt = [(number * k + 1) % 61 for k in range(1, 1 + number % 5 + 1)]
            part = MODEL.new_cache(1, len(prompt))
            MODEL.hidden(torch.tensor([prompt]), part)
            cache.add_rows(1, len(prompt) + 4)
            cache.write_rows([len(texts)], part)
            texts.append(prompt)
        elif texts and what == "r":
            row = number % len(texts)
            cache.remove_row(row)
            texts[row] = texts[-1]
            texts.pop()
        elif texts and max(map(len, texts)) < cache.capacity:
            new = torch.tensor([[(number + row) % 61] for row in range(len(texts))])
            found = MODEL(new, cache)[:, -1]
            for text, token in zip(texts, new[:, 0].tolist(), strict=True):
                text.append(token)
            expected = torch.stack([MODEL(torch.tensor([text]))[0, -1] for text in texts])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert cache.lengths == [len(text) for text in texts]


def test_a_row_that_leaves_moves_one_row_and_no_buffer():
    cache = MODEL.new_cache(4, 8)
    cache.advance(3)
    for number in range(4):
        cache.layers[0].keys[number] = number
    before = cache.layers[0].keys
    cache.remove_row(1)
    assert cache.layers[0].keys is before
    assert before[:3, 0, 0, 0].tolist() == [0, 3, 2]
    cache.remove_row(2)
    assert before[:2, 0, 0, 0].tolist() == [0, 3]
    assert len(cache) == 2


def test_a_cache_never_holds_more_than_the_context():
    cache = MODEL.new_cache(1, 4)
    cache.add_rows(3, 100)
    assert cache.capacity == CONFIG.context_length
    assert len(cache.layers[0].keys) == 4
    cache.add_rows(1)
    assert len(cache.layers[0].keys) == 8
