"""The learning rate rises, then falls, and never jumps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.training.loop import learning_rate_factor


@given(
    total=st.integers(5, 5000),
    asked=st.integers(1, 1000),
    shape=st.sampled_from(["linear", "cosine", "constant"]),
    final=st.floats(0, 1),
)
def test_it_stays_between_zero_and_one_rises_then_falls(total, asked, shape, final):
    factors = [learning_rate_factor(step, total, asked, shape, final) for step in range(total)]
    assert all(0 < f <= 1 for f in factors)
    assert max(factors) == 1.0
    peak = factors.index(1.0)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert all(a >= b - 1e-12 for a, b in zip(factors[peak:], factors[peak + 1 :], strict=False))
    assert peak == max(1, min(asked, total // 5)) - 1


@pytest.mark.parametrize(("shape", "middle", "end"), [("linear", 0.55, 0.1), ("cosine", 0.55, 0.1), ("constant", 1, 1)])
def test_known_values(shape, middle, end):
    values = [learning_rate_factor(step, 110, 10, shape, 0.1) for step in (0, 9, 60, 110)]
    assert values == pytest.approx([0.1, 1.0, middle, end])


def test_while_the_total_is_unknown_it_only_warms_up():
    assert [learning_rate_factor(s, None, 4, "linear") for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
