"""What a person sees: the live line has loss, validation, speed, time left and memory within 80 columns."""

from __future__ import annotations

import io

from rich.console import Console

from handloom.training.objective import EvalResult
from handloom.training.progress import TerminalReporter, clock
from handloom.training.time_budget import StepTimer


def test_the_live_line_says_everything():
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, color_system=None, highlight=False)
    pace = StepTimer()
    pace.add_step(0.5)
    with TerminalReporter(console) as terminal:
        terminal.validation(100, EvalResult(4.5, "nats/token", {"bits_per_byte": 1.8}), 4.6)
        terminal.step(100, 500, 4.321, 12345.0, pace)
    shown = screen.getvalue()
    for part in ("100/500", "loss 4.321", "val 4.500", "12,345 tokens/s", "3:20 left", " MB"):
        assert part in shown
    assert "1.800 bits/byte" in shown


def test_a_clock_reads_as_one():
    assert [clock(s) for s in (0, 59.6, 61, 3661)] == ["0:00", "1:00", "1:01", "1:01:01"]
