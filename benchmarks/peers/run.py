"""Tokens a second of GPT-2's 124M shape, ours and other engines': each in its own process, taking turns in one run.

    python benchmarks/peers/run.py [--work decode,prefill,batch] [--rounds 3] [--only handloom,openvino] [--write]

Random weights, greedy. decode: 128 tokens after a prompt of 32. prefill: a prompt of 900. batch: 16 prompts of 32
with 128 new tokens each. A round in which other processes used more than 0.15 of a core is repeated, up to three
times, and counted. An engine that is not installed is named as missing. With each speed of decoding stands the share
of the memory's read bandwidth, measured in the same run, that reading the weights once a token amounts to. Loading is
timed once, with the files in the page cache. `--write` writes docs/benchmarks.md with a chart of each kind of work.

--models keeps the converted models in a folder; those that optimum-cli made elsewhere can be put there.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chart import bar_chart
from engines import FORMATS, LOADERS, MODULES
from models import make_models

NAMES = [f"{engine} {form}" for engine, forms in FORMATS.items() for form in forms]
WORK = {
    "decode": "Decoding: 128 tokens after 32",
    "prefill": "Prefill: a prompt of 900 tokens",
    "batch": "16 sequences together, 32 + 128 tokens each",
}
AS_COMMANDS = {"GOMP_SPINCOUNT": "2000"}
"""What Handloom's commands set for themselves (`cli/main.py`)."""
HEAD = (
    "GPT-2's 124M shape with random weights, greedy, and other engines as they are when nobody tunes them. int8 and",
    "int4 are close to float32, not equal: [quantization.md](quantization.md) has the bounds. What was aimed at, and",
    "training: [numbers.md](numbers.md).",
    "",
)
DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default=",".join(WORK))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="engines whose names begin so, separated by commas")
    parser.add_argument("--models", type=Path, help="folder that keeps the models")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its charts")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve, asked.models, asked.threads)
        return
    wanted = [name for name in NAMES if any(name.startswith(one) for one in asked.only.split(","))]
    missing = [name for name in wanted if importlib.util.find_spec(MODULES[name.split()[0]].partition(".")[0]) is None]
    with tempfile.TemporaryDirectory() as scratch:
        asked.models = asked.models or Path(scratch)
        make_models(asked.models)
        for name in [name for name in wanted if name not in missing and name.startswith("openvino")]:
            missing += [] if (asked.models / "openvino").exists() else [name]
        lines = measure([name for name in wanted if name not in missing], asked)
    lines += [f"Not installed: {', '.join(missing)}.", ""] if missing else []
    print("\n".join(lines))
    if asked.write:
        head = [
            "# Benchmarks",
            "",
            *HEAD,
            "```",
            f"python benchmarks/peers/run.py --rounds {asked.rounds} --write",
            "```",
            "",
        ]
        (DOCS / "benchmarks.md").write_text("\n".join([*head, *lines]), "utf-8")


def measure(names: list[str], asked: argparse.Namespace) -> list[str]:
    """Let the engines take turns; lines of Markdown."""
    workers: dict[str, Worker] = {}
    failed: list[str] = []
    for name in names:
        try:
            workers[name] = Worker(name, asked)
        except EngineError as error:
            failed.append(f"{name} ({error})")
    kinds, bandwidths, disturbed = asked.work.split(","), [], 0
    speeds: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in workers} for kind in kinds}
    for _ in range(asked.rounds):
        bandwidths.append(bandwidth(asked.threads))
        for kind in kinds:
            for name, worker in list(workers.items()):
                try:
                    for _ in range(4):
                        speed, others = worker.round(kind)
                        if others < 0.15:
                            break
                        disturbed += 1
                    speeds[kind][name].append(speed)
                except EngineError as error:
                    failed.append(f"{name}, {kind} ({error})")
                    del workers[name]
    gigabytes = statistics.median(bandwidths)
    day = datetime.date.today().isoformat()
    lines = [
        f"{processor()}; {asked.threads} threads; read bandwidth {gigabytes:.1f} GB/s; {day}; "
        f"{disturbed} rounds repeated.",
        "Tokens a second, the median and the best of "
        f"{asked.rounds} rounds in which the engines took turns, each in a process of its own.",
        "",
    ]
    for kind in kinds:
        medians = {name: statistics.median(found) for name, found in speeds[kind].items() if found and name in workers}
        if asked.write:
            chart = bar_chart(f"{WORK[kind]}, tokens/s", medians, "handloom")
            (DOCS / f"benchmarks-{kind}.svg").write_text(chart, "utf-8")
            lines += [f"## {WORK[kind]}", "", f"![{WORK[kind]}, tokens a second](benchmarks-{kind}.svg)", ""]
        lines += ["| | median | best | share of bandwidth | peak memory, MB | load, s |", "|---|---|---|---|---|---|"]
        for name, median in medians.items():
            worker = workers[name]
            share = f"{median * worker.megabytes / 1000 / gigabytes:.0%}" if kind == "decode" else ""
            lines.append(
                f"| {name} | {median:,.1f} | {max(speeds[kind][name]):,.1f} | {share} | {worker.peaks[kind]:,.0f} | "
                f"{worker.load_seconds:.2f} |"
            )
        lines.append("")
    for worker in workers.values():
        worker.end()
    return [*lines, *([f"Failed: {'; '.join(failed)}.", ""] if failed else [])]


class EngineError(Exception):
    """What an engine could not do."""


class Worker:
    """A process with one engine, and what it said of itself."""

    def __init__(self, name: str, asked: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--serve", name, "--models", str(asked.models)]
        self.process = subprocess.Popen(
            [*command, "--threads", str(asked.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(asked.threads),
                **(AS_COMMANDS if name.startswith("handloom") else {}),
            },
        )
        self.megabytes, self.load_seconds = map(float, self._read().split())
        self.peaks: dict[str, float] = {}

    def round(self, kind: str) -> tuple[float, float]:
        """(Tokens a second, cores that other processes used meanwhile)."""
        busy, own, began = cores_busy(), process_seconds(self.process.pid), time.perf_counter()
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kind}\n")
        self.process.stdin.flush()
        speed, self.peaks[kind] = map(float, self._read().split())
        seconds = time.perf_counter() - began
        return speed, (cores_busy() - busy - (process_seconds(self.process.pid) - own)) / seconds

    def end(self) -> None:
        """Let it go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EngineError(f"it ended with {self.process.wait()}")
        return line


def cores_busy() -> float:
    """Seconds that all cores have worked, since the machine started."""
    fields = [int(field) for field in Path("/proc/stat").read_text("ascii").splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def process_seconds(process: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bandwidth(threads: int) -> float:
    """GB/s of reading 400 MB, the best of five."""
    import torch

    torch.set_num_threads(threads)
    numbers, best = torch.ones(100_000_000), 0.0
    for _ in range(5):
        began = time.perf_counter()
        numbers.sum()
        best = max(best, 0.4 / (time.perf_counter() - began))
    return best


def processor() -> str:
    """Its name, and its vector instructions."""
    import torch

    lines = Path("/proc/cpuinfo").read_text("ascii").splitlines()
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")
    has = torch.cpu.get_capabilities()
    extra = [
        label for key, label in (("avx512_vnni", "VNNI"), ("avx512_bf16", "bf16"), ("amx_tile", "AMX")) if has.get(key)
    ]
    return ", ".join([name, torch.backends.cpu.get_cpu_capability(), *extra])


def serve(name: str, models: Path, threads: int) -> None:
    """Load an engine; print megabytes of weights and seconds; for each kind of work read, its speed and peak memory."""
    from handloom import runtime

    os.dup2(2, 3)  # engines print what they like
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine, form = name.split()
    importlib.import_module(MODULES[engine])  # not a part of loading
    began = time.perf_counter()
    loaded = LOADERS[engine](form, models, threads)
    print(loaded.megabytes, time.perf_counter() - began, file=answers, flush=True)
    warm = set()
    for line in sys.stdin:
        work = getattr(loaded, line.strip())
        if line not in warm:
            warm.add(line)
            work()
        print(work(), runtime.peak_memory_bytes() / 1e6, file=answers, flush=True)


if __name__ == "__main__":
    main()
