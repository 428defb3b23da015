"""Measurements, shrunk: what they return, not how fast it is."""

from __future__ import annotations

import pytest

from handloom.hardware import speed


def test_read_bandwidth_reads_the_whole_buffer_once_each_time(monkeypatch):
    monkeypatch.setattr(speed, "_times", lambda work, repeats: [0.5] * repeats if work() == 0 else [])
    assert speed.read_bandwidth(None, least=1 << 20) == (1 << 20) / 0.5
    assert speed.read_bandwidth(1 << 20, least=1 << 20) == (4 << 20) / 0.5  # well beyond the cache


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8"])
def test_matrix_speed_counts_a_multiply_add_as_two(monkeypatch, name):
    monkeypatch.setattr(speed, "has_native_bf16", lambda: True)
    monkeypatch.setattr(speed, "_times", lambda work, repeats: [2.0] if work().shape == (32, 32) else [])
    assert speed.matrix_speed(name, size=32) == 2 * 32**3 / 2


def test_an_emulated_type_is_not_measured(monkeypatch):
    monkeypatch.setattr(speed, "has_native_bf16", lambda: False)
    assert speed.matrix_speed("bf16", size=8) is None


def test_the_disk_is_left_as_it_was(tmp_path):
    assert speed.disk_speed(tmp_path / "new", size=1 << 20) > 0
    assert list((tmp_path / "new").iterdir()) == []
