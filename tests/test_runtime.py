"""What this machine is: the numbers are this process's own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from handloom import runtime


def test_the_peak_of_memory_is_not_inherited_from_who_started_the_process():
    """getrusage once told a child the peak of pytest, so that a test of memory measured a difference of 0."""
    ballast = bytearray(300_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    script = "from handloom import runtime; print(runtime.peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert len(ballast) < runtime.peak_memory_bytes()
    assert 1_000_000 < int(done.stdout) < 100_000_000


@pytest.mark.parametrize(
    ("openmp", "asked", "used"),
    [("3", None, 3), ("2,1", None, 2), ("3", 1, 1), ("", None, 5), ("0", None, 5), ("many", None, 5)],
)
def test_threads_are_those_asked_for_else_of_openmp_else_the_cores(monkeypatch, openmp, asked, used):
    import torch

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", openmp)
    monkeypatch.setattr(runtime, "available_cores", lambda: 5)
    try:
        assert runtime.set_num_threads(asked) == used
        assert torch.get_num_threads() == used
    finally:
        torch.set_num_threads(before)
