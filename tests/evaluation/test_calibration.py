"""Calibration: by hand, against scores computed one by one, and of one who is always as right as sure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handloom.evaluation.calibration import calibrate, reliability


def test_counted_by_hand():
    found = reliability(np.array([0.95, 0.91, 0.15, 0.2, 1.0]), np.array([True, False, False, True, True]))
    full = {round(each.low, 1): each for each in found.bins if each.tokens}
    assert sorted(full) == [0.1, 0.9]
    assert (full[0.9].tokens, full[0.9].accuracy) == (3, pytest.approx(2 / 3))
    assert (full[0.1].tokens, full[0.1].confidence) == (2, pytest.approx(0.175))
    assert found.error == pytest.approx(3 / 5 * abs(2.86 / 3 - 2 / 3) + 2 / 5 * abs(0.175 - 0.5))
    assert full[0.9].standard_error == pytest.approx(math.sqrt(2 / 9 / 3))


@given(st.lists(st.tuples(st.floats(1e-6, 1.0), st.booleans()), min_size=1, max_size=60))
def test_every_prediction_is_in_the_bin_that_holds_it(pairs):
    confidence, right = (np.array(each) for each in zip(*pairs, strict=True))
    found = reliability(confidence, right)
    assert sum(each.tokens for each in found.bins) == found.tokens == len(pairs)
    for each in found.bins:
        here = (confidence > each.low) & (confidence <= each.high)
        assert each.tokens == here.sum()
        if each.tokens:
            assert each.accuracy == pytest.approx(right[here].mean())
    gaps = [each.tokens / len(pairs) * abs(each.confidence - each.accuracy) for each in found.bins if each.tokens]
    assert found.error == pytest.approx(sum(gaps))
    assert 0 <= found.error <= 1


def test_who_is_as_right_as_sure_has_no_error_and_who_boasts_has():
    chance = np.random.default_rng(0)
    confidence = chance.uniform(0.01, 1, 100_000)
    right = chance.uniform(size=100_000) < confidence
    assert reliability(confidence, right).error < 0.01
    boasting = reliability(np.sqrt(confidence), right)
    assert boasting.error == pytest.approx(2 / 3 - 1 / 2, abs=0.02)  # the means of sqrt(x) and of x
    assert boasting.error == pytest.approx(boasting.confidence - boasting.accuracy, abs=1e-9)


@pytest.mark.parametrize("context_length", [3, 16])
def test_a_model_is_asked_for_every_token_but_the_first(model, context_length):
    ids = np.random.default_rng(1).integers(257, size=40).astype(np.int64)
    sure, right = [], []
    for at in range(1, len(ids)):
        start = (at - 1) // context_length * context_length
        end = min(start + context_length, len(ids) - 1)
        before = ids[max(0, end - context_length) : at] if end < start + context_length else ids[start:at]
        p = model(torch.tensor(before)[None])[0, -1].softmax(-1)
        sure.append(p.max().item())
        right.append(int(p.argmax()) == ids[at])
    found = calibrate(model, [ids], context_length=context_length)
    wanted = reliability(np.array(sure), np.array(right))
    assert found.tokens == len(ids) - 1
    assert found.error == pytest.approx(wanted.error, abs=1e-5)
    assert found.confidence == pytest.approx(wanted.confidence, abs=1e-5)
    assert found.accuracy == wanted.accuracy


def test_the_model_is_left_in_its_mode(model):
    model.train()
    calibrate(model, [np.arange(5)], context_length=16)
    assert model.training
    model.eval()
