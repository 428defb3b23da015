"""Full training at GPT-2's 124M shape: a step of Handloom's Trainer and of other loops, taking turns in one run.

    python benchmarks/train.py [--batch 4] [--steps 5] [--rounds 3] [--only handloom,transformers]

Random weights, random tokens (the same for all), windows of 256 tokens, AdamW, clipping at 1, no dropout.
`transformers` is GPT2LMHeadModel in the usual loop, `compiled` the same under torch.compile. Every measurement is a
process of its own, its first two steps are not counted (compilation neither), and its speed is the median of the
others. The share is that of the speed of a product of two 2048 x 2048 matrices in the same type, measured in the same
round. A measurement during which other processes used more than 0.15 of a core is marked with *.

Needs transformers (development extra) and, for `compiled`, a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

SHARED = """
import json, sys, time
import torch
from handloom import runtime
side, rows, steps, threads = sys.argv[1], *map(int, sys.argv[2:])
runtime.set_num_threads(threads)
precision = side.split()[-1]

def batch(step):
    drawn = torch.randint(50257, (rows, 257), generator=torch.Generator().manual_seed(step))
    return {"inputs": drawn[:, :-1].contiguous(), "targets": drawn[:, 1:].contiguous()}
"""
OURS = """
import tempfile
from pathlib import Path
from handloom.model.config import preset
from handloom.model.gpt import GPT
from handloom.training.config import TrainConfig
from handloom.training.loop import Progress, Trainer
from handloom.training.objective import EvalResult, OpenedData
from handloom.training.progress import Reporter
from handloom.training.setup import TrainingSetup
from handloom.training.signals import StopRequest
from handloom.training.task_objectives import NextToken

class RandomTokens(NextToken):
    def __init__(self):
        super(NextToken, self).__init__(batch, 1e9, (), "random")
    def evaluate(self, model, cache=None):
        return EvalResult(1.0, self.unit)

config = TrainConfig(preset="gpt2", batch_size=rows, optimizer="adamw", steps=10**6, warmup_steps=1,
                     learning_rate=6e-4, schedule="constant", sample_every=0, eval_every=10**6, precision=precision)
with tempfile.TemporaryDirectory() as scratch:
    setup = TrainingSetup(config, None, GPT(preset("gpt2")), OpenedData(RandomTokens(), "", {}))
    trainer = Trainer(Path(scratch), setup, Progress(), Reporter())
    trainer.save = lambda: None
    trainer.train(StopRequest(), stop_after=steps)
    trains = [r for r in trainer.log.records if r["kind"] == "train"]
at, loss = [r["seconds"] for r in trains], trains[-1]["loss"]
taken = [b - a for a, b in zip(at, at[1:])]
"""
THEIRS = """
import warnings
warnings.simplefilter("ignore")
from transformers import GPT2Config, GPT2LMHeadModel
torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).train()
called = torch.compile(model) if side.startswith("compiled") else model
optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
at = []
for step in range(steps):
    drawn = batch(step)
    ids = torch.cat([drawn["inputs"][:, :1], drawn["targets"]], dim=1)[:, :256]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = called(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    at.append(time.perf_counter())
loss = float(loss)
taken = [b - a for a, b in zip(at, at[1:])]
"""
LAST = """
print(json.dumps({"peak": runtime.peak_memory_bytes(), "loss": loss, "taken": taken}))
"""
MATRIX = """
times = {}
for dtype in (torch.float32, torch.bfloat16):
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    taken = []
    for _ in range(12):
        began = time.perf_counter()
        a @ b
        taken.append(time.perf_counter() - began)
    times["fp32" if dtype is torch.float32 else "bf16"] = 2 * 2048**3 / sorted(taken)[4]
print(json.dumps(times))
"""
SIDES = ("handloom bf16", "transformers bf16", "compiled bf16", "handloom fp32", "transformers fp32")
FLOPS = 6 * (85_056_000 + 38_597_376) + 6 * 12 * 768 * 256
"""For a token: two for each number of a matrix and the head forward, four backward; and causal attention."""


def measured(script: str, side: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The last line that a process with this script prints; `others`: cores that other processes used meanwhile."""
    words = [side, asked.batch, asked.steps, asked.threads]
    before, own, began = cores_seconds(), os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", SHARED + script, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side}: {done.stderr}")
    now = os.times()
    ours = now.children_user + now.children_system - own.children_user - own.children_system
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["others"] = (cores_seconds() - before - ours) / (time.perf_counter() - began)
    return found


def cores_seconds() -> float:
    """Seconds of processor time that all processes of this machine have used."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def main() -> None:
    """Print a row for each side, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 4), ("steps", 6), ("rounds", 2), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="sides whose names begin so, separated by commas")
    asked = parser.parse_args()
    sides = [side for side in SIDES if any(side.startswith(one) for one in asked.only.split(","))]
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    shares: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(asked.rounds):
        matrix = measured(MATRIX, "matrix", asked)
        print(f"round {number + 1}: " + ", ".join(f"{k} {matrix[k] / 1e9:.0f} GFLOP/s" for k in ("fp32", "bf16")))
        for side in sides:
            found = measured((OURS if side.startswith("handloom") else THEIRS) + LAST, side, asked)
            speed = 256 * asked.batch / statistics.median(found["taken"][1:])
            speeds[side].append(speed)
            shares[side].append(speed * FLOPS / matrix[side.split()[-1]])
            mark = "*" if found["others"] > 0.15 else ""
            print(
                f"  {side:<18}{speed:7.0f}{mark:<2} {found['peak'] / 1e6:7.0f} MB  loss {found['loss']:.4f}", flush=True
            )
    print(f"{'':<20}{'median':>8}{'best':>8}  tokens/s; share of matrix speed")
    for side in sides:
        print(
            f"{side:<20}{statistics.median(speeds[side]):8.0f}{max(speeds[side]):8.0f}{statistics.median(shares[side]):7.0%}"
        )
    for one, other in (
        ("handloom bf16", "compiled bf16"),
        ("handloom bf16", "transformers bf16"),
        ("handloom fp32", "transformers fp32"),
    ):
        if one in sides and other in sides:
            ratios = [a / b for a, b in zip(speeds[one], speeds[other], strict=True)]
            print(f"{one} / {other}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
