"""Preparing streams: memory does not grow with the text. Measured by the benchmark's own means."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

MB = 1_000_000


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "prepare.py"
    spec = importlib.util.spec_from_file_location("benchmark_prepare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_of_preparing(benchmark, folder, n_bytes):
    """Bytes of memory of all processes together at the worst moment, and tokens made."""
    file = folder / f"{n_bytes}.txt"
    benchmark.write_text(file, n_bytes)
    result = benchmark.measured(["--only", "ours", "--file", str(file), "--workers", "2"], folder / "cache")
    file.unlink()
    return result["peak_bytes"], result["tokens"]


def test_twenty_four_megabytes_more_take_less_memory_than_their_tokens(benchmark, tmp_path):
    small, few = peak_of_preparing(benchmark, tmp_path, 12 * MB)
    large, many = peak_of_preparing(benchmark, tmp_path, 36 * MB)
    assert large - small < 2 * (many - few)  # two bytes a token on disk; in a list it takes eight
    assert large < 400 * MB


@pytest.mark.slow
def test_a_gigabyte_is_prepared_in_600_megabytes(benchmark, tmp_path):
    peak, tokens = peak_of_preparing(benchmark, tmp_path, 1000 * MB)
    assert tokens > 200 * MB
    assert peak < 600 * MB
