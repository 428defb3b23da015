"""How long `handloom CMD --help` takes: the median of ten new processes for each command.

    python benchmarks/help_time.py

The limit is 0.3 s on the machine this was built on. On a busy machine believe the fastest, not the median.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = (
    "",
    "demo",
    "train",
    "generate",
    "chat",
    "classify",
    "finetune",
    "plan",
    "tokenize",
    "data",
    "data check",
    "data prepare",
    "data show",
    "pull",
    "export",
    "evaluate",
    "lm-eval",
    "verify",
    "compare",
    "bench",
    "bench decode",
    "bench prefill",
    "bench batch",
    "bench train",
    "bench lora",
    "bench start",
    "bench tokenize",
    "tune",
    "doctor",
    "bench speedrun",
    "model",
    "model show",
    "model list",
    "model presets",
)
RUNS = 10


def seconds(command: str) -> float:
    """Wall time of one `handloom COMMAND --help`, from the start of the process to its end."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "handloom", *command.split(), "--help"], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def main() -> None:
    """Print one line a command."""
    print(f"{'command':<14} {'median':>8} {'fastest':>8}  seconds of {RUNS} runs")
    for command in COMMANDS:
        times = [seconds(command) for _ in range(RUNS)]
        print(f"{command or '(none)':<14} {statistics.median(times):8.3f} {min(times):8.3f}")


if __name__ == "__main__":
    main()
