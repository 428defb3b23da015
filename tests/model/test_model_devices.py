"""Runs device_checks.py in a process of its own: PyTorch's autograd counts devices when it is first used."""

from pathlib import Path

from devices import run_checks


def test_a_device_of_another_name_runs_the_model():
    run_checks(Path(__file__).with_name("device_checks.py"))
