"""What other processes use is what the cores did, less what we did."""

from __future__ import annotations

import os

from handloom.hardware.usage import Meter, busy_seconds, process_seconds

TICKS = os.sysconf("SC_CLK_TCK")


def stat(proc, *cores):
    """A /proc/stat: of each core the ticks of user, nice, system, idle, iowait, irq, softirq, steal, guest."""
    lines = [f"cpu{number} " + " ".join(map(str, ticks)) for number, ticks in enumerate(cores)]
    (proc / "stat").write_text("\n".join(["cpu  1 2 3", *lines, "intr 5"]), encoding="ascii")


def test_busy_time_is_all_but_idle_and_waiting_for_disks_and_counts_the_guest_once(tmp_path):
    stat(tmp_path, (100, 1, 10, 5000, 70, 2, 3, 4, 100), (200, 0, 0, 9000, 0, 0, 0, 0, 0))
    assert busy_seconds([0], tmp_path) == 120 / TICKS
    assert busy_seconds([0, 1], tmp_path) == 320 / TICKS


def test_without_proc_nothing_is_known(tmp_path):
    assert busy_seconds([0], tmp_path) is None
    assert Meter(proc=tmp_path).others(0.11) is None


def test_a_process_whose_name_holds_a_parenthesis(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a) 1 (b)) S 1 7 7 0 -1 0 0 0 0 0 300 50 0 0 20 0", encoding="ascii")
    assert process_seconds(7, tmp_path) == 350 / TICKS
    assert process_seconds(8, tmp_path) == 0


def test_others_are_the_rest(tmp_path, monkeypatch):
    """A core that a worker of ours kept busy is not others' work; one that nobody of ours kept busy is."""
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("handloom.hardware.usage.granted_cpus", lambda: {0, 1})
    monkeypatch.setattr(os, "times", lambda: (0, 0, 0, 0, 0))
    (tmp_path / "7").mkdir()
    worker = tmp_path / "7" / "stat"
    worker.write_text("7 (w) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0", encoding="ascii")
    stat(tmp_path, (0,) * 9, (0,) * 9)

    def work():
        worker.write_text(f"7 (w) S 1 7 7 0 -1 0 0 0 0 0 {2 * TICKS} 0 0 0", encoding="ascii")
        stat(tmp_path, (2 * TICKS, *(0,) * 8), (TICKS, *(0,) * 8))
        return "done"

    assert Meter([7], tmp_path).during(work) == ("done", 0.5)
