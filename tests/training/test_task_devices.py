"""Runs task_device_checks.py in a process of its own, as tests/model/test_model_devices.py does."""

from pathlib import Path

from devices import run_checks


def test_a_device_of_another_name_takes_a_step_of_every_task():
    run_checks(Path(__file__).with_name("task_device_checks.py"))
