"""Steps from minutes: what is left after validations, samples and saves, divided by what a step takes."""

from __future__ import annotations

import pytest

from handloom.training import pace
from handloom.training.pace import EVENTS, Pace


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to move."""
    now = [100.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    return now


def test_it_is_ready_when_the_time_has_come_and_three_steps_were_measured(clock):
    measured = Pace()
    clock[0] += 60
    for _ in range(2):
        measured.stepped(30.0)
    assert not measured.ready(minutes=1)
    measured.stepped(30.0)
    assert measured.ready(minutes=1)
    assert not measured.ready(minutes=1.1)


def test_the_steps_fill_the_minutes(clock):
    measured = Pace()
    for _ in range(10):
        measured.stepped(0.5)
        clock[0] += 0.5
    measured.paused("validation", 2.0, None)
    measured.paused("save", 1.0, 10)
    steps = measured.steps_within(minutes=1, step=10)
    # 60 s, less 5 gone, less 5 validations of 2 s, at 0.5 s a step and a tenth of a save.
    assert steps == 10 + int((60 - 5 - EVENTS * 2) / 0.6)
    assert measured.predict(steps - 10) == pytest.approx(60, abs=0.6)
    measured.paused(
        "validation", 3.0, None
    )  # one of the five is over; the others will take as long as it did
    assert measured.steps_within(minutes=1, step=10) == 10 + int((60 - 5 - (EVENTS - 1) * 3) / 0.6)


def test_a_session_that_goes_on_counts_what_was_before(clock):
    measured = Pace(before=30.0)
    clock[0] += 5.0
    assert measured.seconds == pytest.approx(35.0)


def test_the_first_steps_do_not_count_and_outliers_do_not_matter(clock):
    measured = Pace()
    for seconds in (9.0, 8.0, 0.5, 0.5, 0.5, 7.0, 0.5):
        measured.stepped(seconds)
    assert measured.step_seconds() == 0.5
