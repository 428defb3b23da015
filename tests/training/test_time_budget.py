"""Steps from minutes: what is left after validations, samples and saves, divided by what a step takes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.training.metrics_log import read_metrics
from handloom.training.time_budget import BEAT, EVENTS, Clock, StepTimer


class Time:
    """Time that passes when it is told to, and a clock that is read as often as one in a run."""

    def __init__(self):
        self.wall = self.cpu = 100.0
        self.clock = Clock(lambda: (self.wall, self.cpu))

    def work(self, seconds, threads=2):
        while seconds > 0:
            beat = min(seconds, BEAT)
            self.wall, self.cpu, seconds = self.wall + beat, self.cpu + threads * beat, seconds - beat
            _ = self.clock.seconds

    def wait(self, seconds):
        """For a disk: nothing is computed, but the clock is read."""
        self.work(seconds, threads=0)

    def sleep(self, seconds):
        """The process is stopped."""
        self.wall += seconds

    def hold(self, seconds):
        """One long piece of work that lets nobody read the clock."""
        self.wall, self.cpu = self.wall + seconds, self.cpu + seconds


@pytest.fixture
def passing():
    return Time()


def test_computing_time_stands_still_while_the_process_does(passing):
    passing.work(3)
    passing.sleep(40)
    passing.work(2)
    passing.sleep(8 * 3600)
    passing.wait(4)
    passing.hold(5)
    assert passing.clock.seconds == pytest.approx(3 + 2 + 4 + 5, abs=2 * 2 * BEAT)


def test_a_short_pause_counts_whoever_made_it(passing):
    passing.sleep(0.9)
    assert passing.clock.seconds == pytest.approx(0.9)


def test_the_clock_beats_by_itself_during_a_long_step(passing):
    reads = []
    clock = Clock(lambda: (reads.append(None) or time.perf_counter(), time.process_time()))
    with clock.beating():
        until = time.perf_counter() + 10
        while len(reads) < 4:
            assert time.perf_counter() < until
            time.sleep(0.01)


def test_the_steps_fill_the_minutes(passing):
    measured = StepTimer(clock=passing.clock)
    for _ in range(10):
        measured.add_step(0.5)
        passing.work(0.5)
    measured.add_pause("validation", 2.0, None)
    measured.add_pause("save", 1.0, 10)
    steps = measured.steps_within(minutes=1, step=10)
    # 60 s, less 5 gone, less 4 or 5 validations of 2 s, at 0.5 s a step and a tenth of a save.
    every = -(-steps // EVENTS)
    left = EVENTS - 10 // every
    assert steps == 10 + int((60 - 5 - left * 2) / 0.6)
    assert measured.predict(10, steps) == pytest.approx(60, abs=0.6)
    measured.add_pause("validation", 20.0, None)  # interrupted, whatever by: one outlier does not count
    assert measured.steps_within(minutes=1, step=10) == steps


def test_a_session_that_goes_on_counts_what_was_before(passing):
    measured = StepTimer(before=30.0, clock=passing.clock)
    passing.work(5.0)
    assert measured.seconds == pytest.approx(35.0)


def test_the_first_steps_do_not_count_and_outliers_do_not_matter():
    measured = StepTimer()
    for seconds in (9.0, 8.0, 0.5, 0.5, 0.5, 7.0, 0.5):
        measured.add_step(seconds)
    assert measured.step_seconds() == 0.5


def run_of(minutes, times, passing, validation=0.0, session_ends=()):
    """Train by the plans of a pace; returns the steps, the computing time, and how often a choice was made."""
    before, total, step, choices = 0.0, None, 0, 0
    pace = StepTimer(before, passing.clock)
    start = pace.seconds
    while step != total:
        began = pace.seconds
        times(step)
        step += 1
        pace.add_step(pace.seconds - began)
        if (chosen := pace.plan(minutes, step, total)) is not None:
            total, choices = chosen, choices + 1
        if validation and total and (step % -(-total // EVENTS) == 0 or step == total):
            began = pace.seconds
            passing.work(validation)
            pace.add_pause("validation", pace.seconds - began, None)
        assert step < 100_000
    return step, pace.seconds - start, choices


def test_an_even_run_is_planned_once_or_twice(passing):
    _, seconds, choices = run_of(2, lambda _: passing.work(0.1), passing, validation=1.0)
    assert seconds == pytest.approx(120, rel=0.02)
    assert choices <= 2


@pytest.mark.parametrize("slow", [(0, 1), (3, 4), (5, 6), (7, 8), (2, 3, 4, 5, 6), range(12)])
def test_jitter_while_the_plan_is_made_does_not_shorten_a_run(passing, slow):
    """`--minutes 0.4`, and a few steps take thirty times as long as they should."""
    _, seconds, _ = run_of(0.4, lambda step: passing.work(0.9 if step in slow else 0.03), passing)
    assert seconds == pytest.approx(24, rel=0.05)


@pytest.mark.parametrize("after", [3, 60, 500])
def test_a_suspended_run_has_all_its_steps(after):
    """The user's own case: 254 of 3,351 steps."""
    found = []
    for asleep in (0, 40):
        passing = Time()

        def times(step, asleep=asleep, passing=passing):
            passing.work(0.0035)
            if step == after:
                passing.sleep(asleep)
            passing.work(0.0035)

        found.append(run_of(0.4, times, passing)[0])
    assert found[1] == pytest.approx(found[0], rel=0.05)


@given(
    seed=st.integers(0, 2**32),
    each=st.floats(0.02, 2.0),
    share=st.floats(0, 0.1),
    validation=st.sampled_from([0.0, 0.5, 3.0]),
    minutes=st.sampled_from([1.0, 5.0]),
)
@settings(max_examples=40, deadline=None)
def test_whatever_happens_the_minutes_are_used_and_hardly_exceeded(seed, each, share, validation, minutes):
    """Steps of any length, a share of them many times slower, the machine asleep now and then, speed that drifts."""
    rng, passing = random.Random(seed), Time()
    drift = rng.uniform(-0.5, 0.5)

    def times(step):
        slower = rng.uniform(2, 8) if rng.random() < share else rng.uniform(0.9, 1.2)
        passing.work(each * slower * (1 + drift * min(1.0, passing.clock.seconds / (60 * minutes))))
        if rng.random() < 0.005:
            passing.sleep(rng.uniform(2, 5000))

    _, seconds, _ = run_of(minutes, times, passing, validation)
    budget = 60 * minutes
    one_step = 8 * 1.5 * each + validation
    assert 0.93 * budget - one_step <= seconds <= 1.07 * budget + one_step


@pytest.mark.slow
def test_a_process_that_is_stopped_for_longer_than_its_minutes_goes_on(tmp_path, corpus_folder):
    """For real: 9 s of computing, 12 s asleep in their midst."""
    folder = tmp_path / "run"
    sizes = "--vocab-size 300 --layers 2 --heads 2 --embed-dim 16 --context-length 16 --batch-size 4 --threads 1"
    words = f"train --data {corpus_folder} --run {folder} --minutes 0.15 --precision fp32 --sample-every 0 {sizes}"
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "handloom", *words.split()], env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        while sum(record["kind"] == "train" for record in read_metrics(folder)) < 20:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        time.sleep(12)
        process.send_signal(signal.SIGCONT)
        assert process.wait(120) == 0
    records = [record for record in read_metrics(folder) if record["kind"] == "train"]
    assert 6 < records[-1]["seconds"] < 13
    assert time.monotonic() - began > records[-1]["seconds"] + 11


@pytest.mark.parametrize(("pause", "events"), [(0.1, EVENTS), (1.0, 4), (2.0, 2), (20.0, 1)])
def test_slow_validations_become_fewer(passing, pause, events):
    """On a busy machine six validations of ten seconds once took most of the demo's 90, and left 15 steps."""
    pace = StepTimer(clock=passing.clock)
    passing.work(pause)
    pace.add_pause("validation", pause, None)
    for _ in range(40):
        passing.work(0.1)
        pace.add_step(0.1)
    total = pace.plan(1.0, 40, None)
    assert pace.events == events
    assert pace.predict(40, total) == pytest.approx(60, abs=0.2 + pause)
    assert total * 0.1 > 60 - pause * (events + 1) - 2.5
