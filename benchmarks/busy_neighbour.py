"""Which share of its idle speed each kind of work keeps while another process keeps one core busy.

    python benchmarks/busy_neighbour.py [--rounds 5] [--waiting passive,spinning] [--only train,decode] [--pin 0]

The neighbour is a Python process in an endless loop; the scheduler places it, or it is pinned to a core (`--pin`).
GPT-2's 124M shape with random weights, 2 threads: decode of 32 tokens after a prompt of 32, prefill of 900 tokens,
training on 4 x 256 tokens; and training steps of the demo's model. Each kind of work is a process, which is measured
in turns alone and next to the neighbour. `passive` is OMP_WAIT_POLICY=PASSIVE, `spinning` what OpenMP does by
itself, and a number GOMP_SPINCOUNT.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

KINDS = (
    "train demo bf16",
    "train demo fp32",
    "train gpt2 bf16",
    "train gpt2 fp32",
    "decode fp32",
    "decode int8",
    "prefill fp32",
)
WAITING = {"passive": {"OMP_WAIT_POLICY": "PASSIVE"}, "spinning": {}}


def work_of(kind: str) -> Callable[[], float]:
    """The work as a function that does it once and returns tokens/s."""
    import torch

    from handloom import runtime
    from handloom.model.config import GPTConfig, preset
    from handloom.model.gpt import GPT

    runtime.set_num_threads(2)
    what, *rest = kind.split()
    if what == "train":
        return training(*rest)
    model: GPT = GPT(preset("gpt2")).eval().requires_grad_(False)
    assert isinstance(model.config, GPTConfig)
    if rest[0] != "fp32":
        from handloom.quantization.packed import pack_model

        model = pack_model(model, rest[0])

    @torch.inference_mode()
    def run() -> float:
        length = 900 if what == "prefill" else 32
        cache = model.new_cache(1, 1024)
        began = time.perf_counter()
        logits = model.next_logits(torch.arange(length)[None], cache)
        if what == "prefill":
            return length / (time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(32):
            logits = model.next_logits(logits.argmax(-1, keepdim=True), cache)
        return 32 / (time.perf_counter() - began)

    return run


def training(shape: str, precision: str) -> Callable[[], float]:
    """Steps of the trainer's forward pass, backward pass and update."""
    import torch

    from handloom.model.config import preset
    from handloom.model.gpt import GPT
    from handloom.training.objective import TrainStep
    from handloom.training.optimizer import Optimizer
    from handloom.training.task_objectives import NextToken

    demo = shape == "demo"
    model = GPT(preset("nano" if demo else "gpt2"))
    objective = NextToken.__new__(NextToken)
    step = TrainStep(model, objective, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    name = "muon" if demo else "adamw"
    optimizer = Optimizer(model, name, 1e-3, weight_decay=0.1, betas=(0.9, 0.95), muon_dtype=dtype)
    rows, length, steps = (16, 128, 10) if demo else (4, 256, 1)
    tokens = torch.randint(model.config.vocab_size, (rows, length + 1))
    batch = {"inputs": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}

    def run() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            (step(batch) / (rows * length)).backward()
            optimizer.step(1.0)
        return steps * rows * length / (time.perf_counter() - began)

    return run


def serve(kind: str) -> None:
    """Do the work whenever a line comes in, and print its speed."""
    from handloom import runtime

    run = work_of(kind)
    with runtime.keeping_freed_memory(0):
        for _ in range(3):
            run()
        print("ready", flush=True)
        for _ in sys.stdin:
            print(run(), flush=True)


def main() -> None:
    """Print a row for each kind of work and way of waiting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--waiting", default="passive,spinning")
    parser.add_argument("--only", default="")
    parser.add_argument("--pin", type=int, help="pin the neighbour to this core")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    print(f"{'':<18}{'waiting':<10}{'idle':>9}{'busy':>9}  tokens/s, median of {asked.rounds}; share kept")
    for kind in (kind for kind in KINDS if any(kind.startswith(one) for one in asked.only.split(","))):
        for way in asked.waiting.split(","):
            idle, busy = measure(kind, WAITING.get(way, {"GOMP_SPINCOUNT": way}), asked.rounds, asked.pin)
            print(f"{kind:<18}{way:<10}{idle:9.1f}{busy:9.1f}{busy / idle:8.0%}", flush=True)


def measure(kind: str, waiting: dict[str, str], rounds: int, pin: int | None) -> tuple[float, float]:
    """Median tokens/s: alone, and next to a busy process."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", kind]
    speeds: dict[bool, list[float]] = {False: [], True: []}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**kept, **waiting}
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()
        for number in range(2 * rounds):
            neighbour = None
            if number % 2:
                neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                if pin is not None:
                    os.sched_setaffinity(neighbour.pid, {pin})
                time.sleep(0.3)
            worker.stdin.write("go\n")
            worker.stdin.flush()
            speeds[bool(number % 2)].append(float(worker.stdout.readline()))
            if neighbour is not None:
                neighbour.kill()
                neighbour.wait()
        worker.stdin.close()
    return statistics.median(speeds[False]), statistics.median(speeds[True])


if __name__ == "__main__":
    main()
