"""What this machine is: the numbers are this process's own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

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


class FakeGlibc:
    """Records calls of mallopt; refuses the option `refused`."""

    def __init__(self, refused=None):
        self.calls, self.refused = [], refused

    def mallopt(self, option, value):
        self.calls.append((option, value))
        return int(option != self.refused)

    def malloc_trim(self, pad):
        self.calls.append("trim")


@pytest.fixture
def glibc(monkeypatch):
    fake = FakeGlibc()
    monkeypatch.setattr(runtime, "_glibc", lambda: fake)
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "HANDLOOM_KEEP_MEMORY"):
        monkeypatch.delenv(name, raising=False)
    return fake


def test_freed_memory_is_kept_during_the_block_and_returned_at_its_end(glibc):
    with suppress(KeyError), runtime.keeping_freed_memory(0) as kept:
        assert kept
        assert dict(glibc.calls) == {-1: -1, -2: 2**26, -3: 2**30}
        raise KeyError
    assert dict(glibc.calls[3:6]) == {-1: 2**26, -2: 2**17, -3: 2**25}
    assert glibc.calls[6:] == ["trim"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HANDLOOM_KEEP_MEMORY", "0"),
        ("MALLOC_TRIM_THRESHOLD_", "1000"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1000"),
    ],
)
def test_memory_is_not_kept_where_the_environment_decides(glibc, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with runtime.keeping_freed_memory(0) as kept:
        assert not kept
    assert glibc.calls == []


def test_memory_is_not_kept_where_too_little_is_available_or_glibc_is_not_there(glibc, monkeypatch):
    monkeypatch.setattr(runtime, "available_memory", lambda: 1000)
    with runtime.keeping_freed_memory(1001) as kept:
        assert not kept
    assert glibc.calls == []
    with runtime.keeping_freed_memory(1000) as kept:
        assert kept
    monkeypatch.setattr(runtime, "_glibc", lambda: None)
    with runtime.keeping_freed_memory(1000) as kept:
        assert not kept


def test_a_threshold_that_glibc_refuses_changes_nothing_for_long(glibc):
    glibc.refused = -1
    with runtime.keeping_freed_memory(0) as kept:
        assert not kept
    assert glibc.calls[-4:] == [(-3, 2**25), (-1, 2**26), (-2, 2**17), "trim"]


@pytest.mark.skipif(runtime._glibc() is None, reason="needs glibc")
def test_a_block_that_is_kept_has_no_page_faults_when_it_is_used_again():
    """The heap needs a few rounds until the same blocks fit one another's places."""
    script = (
        "import resource, torch\nfrom handloom import runtime\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(5_000_000)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "with runtime.keeping_freed_memory(0) as kept:\n"
        "    print(kept, *[faults() for _ in range(40)])\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=clean)
    kept, *faults = done.stdout.split()
    assert kept == "True"
    assert int(faults[0]) > 0
    assert sum(map(int, faults[-10:])) == 0


def test_available_memory_is_at_most_all_of_it():
    assert 0 < runtime.available_memory() <= runtime.memory_bytes()
