"""Runs device_checks.py in a process of its own: PyTorch's autograd counts devices when it is first used."""

import subprocess
import sys
from pathlib import Path

CHECKS = Path(__file__).parent / "device_checks.py"


def test_a_device_of_another_name_runs_the_model():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[100%]" in result.stdout
