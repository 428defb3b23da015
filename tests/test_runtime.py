"""What this machine is: the numbers are this process's own."""

from __future__ import annotations

import subprocess
import sys

from handloom import runtime


def test_the_peak_of_memory_is_not_inherited_from_who_started_the_process():
    """getrusage once told a child the peak of pytest, so that a test of memory measured a difference of 0."""
    ballast = bytearray(300_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    script = "from handloom import runtime; print(runtime.peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert len(ballast) < runtime.peak_memory_bytes()
    assert 1_000_000 < int(done.stdout) < 100_000_000
