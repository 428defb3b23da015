"""The quality of a precision: numbers by hand, a sound one passes, and a wrong one fails."""

from __future__ import annotations

import copy
import dataclasses
import math
from itertools import pairwise

import pytest
import torch

from handloom.errors import ModelError
from handloom.inspection import quality
from handloom.inspection.quality import builtin_windows, compare_precision, predict
from handloom.inspection.verify import verify
from handloom.quantization.precision import PACKED, set_precision


def rows(lm, rounded):
    return {check.name: check for check in verify(lm, rounded=rounded) if " within " in check.name}


def test_change_error_and_agreement_by_hand():
    exact = torch.tensor([1.0, 2.0, 3.0, 2.0]).double(), torch.tensor([1, 2, 3, 4])
    rounded = torch.tensor([1.1, 2.0, 2.9, 2.4]).double(), torch.tensor([1, 2, 3, 5])
    found = compare_precision("int8", exact, rounded)
    assert found.perplexity == pytest.approx(math.exp(2.1))
    assert found.perplexity_fp32 == pytest.approx(math.exp(2.0))
    assert found.change == pytest.approx(100 * (math.exp(0.1) - 1))
    assert found.error == pytest.approx(100 * 1.96 * 0.2160247 / 2)
    assert found.agreement == 0.75
    assert found.within_bound  # 10.5 % more, give or take 21
    assert not dataclasses.replace(found, error=1.0).within_bound


def test_windows_hold_each_token_once_and_overlap_by_one(lm):
    windows = builtin_windows(lm.tokenizer, lm.config)
    assert all(torch.equal(one[-1:], other[:1]) for one, other in pairwise(windows))
    assert max(map(len, windows)) == lm.config.context_length + 1
    assert 2048 <= sum(len(window) - 1 for window in windows) <= 16384


def test_sound_precisions_pass_and_other_weights_fail(lm, monkeypatch):
    done = rows(lm, {name: lambda name=name: set_precision(copy.deepcopy(lm.model), name) for name in PACKED})
    assert [check.passed for check in done.values()] == [True] * 3
    assert list(done) == ["fp16 within 0.001 %", "int8 within 0.05 %", "int4 within 1 %"]
    wrong = copy.deepcopy(lm.model)
    with torch.no_grad():
        wrong.blocks[0].feedforward.down.weight.mul_(3)
        wrong.lm_head.weight.mul_(3)
    assert rows(lm, {"int4": lambda: wrong})["int4 within 1 %"].passed is None  # a model too small for the bound
    monkeypatch.setattr(quality, "SMALLEST", 0)
    assert rows(lm, {"int4": lambda: wrong})["int4 within 1 %"].passed is False


def test_a_model_that_cannot_be_packed_fails_in_words(lm):
    def refuse():
        raise ModelError("A weight of 1e9 cannot be packed as int8.", "Set `precision` to fp32.")

    assert rows(lm, {"int8": refuse})["int8 within 0.05 %"].detail == "A weight of 1e9 cannot be packed as int8."


def test_the_same_model_changes_nothing(lm):
    windows = builtin_windows(lm.tokenizer, lm.config)[:20]
    found = compare_precision("int8", predict(lm.model, windows), predict(lm.model, windows))
    assert (found.change, found.error, found.agreement) == (0, 0, 1)
