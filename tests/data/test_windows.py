"""Batches as a pure function of the step: every window once an epoch, in any order of asking."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.data.collate import permuted
from handloom.data.windows import Windows, validation_batches
from handloom.errors import ConfigError, DataError


@st.composite
def windowings(draw):
    context_length = draw(st.integers(1, 9))
    return {
        "tokens": np.arange(draw(st.integers(context_length + 1, 60)), dtype=np.uint16),
        "context_length": context_length,
        "stride": draw(st.integers(1, context_length)),
        "batch_size": draw(st.integers(1, 7)),
        "seed": draw(st.integers(-(2**70), 2**70)),
    }


def starts_until(windows, n):
    """The first n window starts, in the order in which training sees them."""
    steps = range(-(-n // windows.batch_size))
    return [start for step in steps for start in windows.batch(step)[0][:, 0].tolist()][:n]


@given(windowings())
def test_each_epoch_sees_every_window_exactly_once(chosen):
    windows = Windows(**chosen)
    starts = starts_until(windows, 3 * len(windows))
    for epoch in range(3):
        assert sorted(starts[epoch * len(windows) : (epoch + 1) * len(windows)]) == sorted(set(starts))
    assert len(set(starts)) == len(windows)
    assert windows.steps_per_epoch * windows.batch_size == pytest.approx(len(windows))


@given(windowings())
def test_windows_cover_the_text_at_the_stride(chosen):
    windows = Windows(**chosen)
    starts = sorted(set(starts_until(windows, len(windows))))
    last = len(chosen["tokens"]) - 1 - chosen["context_length"]
    assert starts == sorted({*range(0, last + 1, chosen["stride"]), last})


@given(windowings(), st.integers(0, 50))
def test_targets_are_the_next_tokens(chosen, step):
    inputs, targets = Windows(**chosen).batch(step)
    assert inputs.shape == targets.shape == (chosen["batch_size"], chosen["context_length"])
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == inputs + 1).all()
    assert (inputs[:, 1:] == targets[:, :-1]).all()


@given(windowings(), st.integers(1, 4), st.integers(0, 30))
def test_ranks_share_what_one_process_would_see(chosen, world_size, step):
    alone = Windows(**{**chosen, "batch_size": chosen["batch_size"] * world_size}).batch(step)[0]
    ranks = [Windows(**chosen, rank=rank, world_size=world_size).batch(step)[0] for rank in range(world_size)]
    assert (np.concatenate(ranks) == alone).all()


def test_a_batch_hangs_on_the_step_alone():
    windows = Windows(np.arange(1000), context_length=8, batch_size=4, seed=3)
    forward = [windows.batch(step)[0] for step in range(100)]
    for step in (99, 0, 50, 31, 32, 50):
        assert (windows.batch(step)[0] == forward[step]).all()
        assert (Windows(np.arange(1000), context_length=8, batch_size=4, seed=3).batch(step)[0] == forward[step]).all()


def test_the_order_never_changes_between_versions():
    """A run that is resumed next year must see the batches that it would have seen today."""
    windows = Windows(np.arange(10_000), context_length=64, batch_size=6, seed=42)
    assert [windows.places(step)[1].tolist() for step in (0, 26)] == PINNED


PINNED = [[8448, 1280, 2432, 7872, 4672, 2688], [5248, 4928, 8640, 4352, 6144, 704]]


@given(st.integers(1, 2000), st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_permuted_is_a_permutation(n, seed, epoch):
    assert sorted(permuted(np.arange(n), n, seed, epoch).tolist()) == list(range(n))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_of_a_few_is_equally_likely(n):
    """Chi-square over all n! orders. The seed is fixed, so it either holds or does not."""
    orders = Counter(tuple(permuted(np.arange(n), n, 1, epoch).tolist()) for epoch in range(2_400))
    cells = math.factorial(n)
    expected = 2_400 / cells
    chi_square = sum((count - expected) ** 2 / expected for count in orders.values())
    chi_square += (cells - len(orders)) * expected
    assert chi_square < (cells - 1) + 4 * math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("n", [300, 4097, 65_536])
def test_neighbours_part_and_epochs_differ(n):
    first, second = (permuted(np.arange(n), n, 0, epoch).astype(np.float64) for epoch in (0, 1))
    for a, b in ((first, second), (first, np.arange(n)), (first[1:], first[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(n)


def test_billions_of_windows_need_no_memory():
    n = 3_000_000_019
    there = permuted(np.arange(n - 1000, n), n, 7, 0)
    assert len(set(there.tolist())) == 1000
    assert 0 <= there.min() <= there.max() < n


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 5))
def test_validation_predicts_every_token_but_the_first_once(n, context_length, batch_size):
    tokens = np.arange(100, 100 + n, dtype=np.uint16)
    counted = []
    for inputs, targets in validation_batches(tokens, context_length, batch_size):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] == context_length
        assert 1 <= len(inputs) <= batch_size
        assert inputs.dtype == targets.dtype == np.int64
        told = targets != -1
        assert (inputs[told] + 1 == targets[told]).all()
        assert told.any(axis=1).all()
        if n > context_length:
            assert (inputs[:, 1:] == inputs[:, :-1] + 1).all()  # full context, no padding
        counted += targets[told].tolist()
    assert counted == tokens[1:].tolist()


def test_text_shorter_than_a_window_names_both_lengths():
    with pytest.raises(DataError) as caught:
        Windows(np.arange(64), context_length=64, batch_size=1, seed=0)
    assert str(caught.value) == (
        "The text has 64 tokens, but one window takes 65 (context 64 and the token after it). "
        "Give more text, or lower `context_length`."
    )
    assert len(Windows(np.arange(65), context_length=64, batch_size=1, seed=0)) == 1


def test_nothing_to_validate_on():
    with pytest.raises(DataError, match="validation text has 1 tokens"):
        validation_batches(np.arange(1), 8, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_length": 0},
        {"stride": 0},
        {"stride": 9},
        {"batch_size": 0},
        {"rank": 1},
        {"rank": -1},
        {"world_size": 0},
    ],
    ids=str,
)
def test_settings_outside_their_limits(wrong):
    with pytest.raises(ConfigError, match=rf"{next(iter(wrong))} is"):
        Windows(np.arange(100), **{"context_length": 8, "batch_size": 2, "seed": 0, **wrong})


def test_a_step_before_the_first():
    with pytest.raises(ConfigError, match="step is -1"):
        Windows(np.arange(100), context_length=8, batch_size=2, seed=0).batch(-1)
