"""Scratch, pretrained and tuned, offline: the whole story, and what each way to tune is worth.

    python benchmarks/story.py FOLDER [--minutes 15] [--steps 80] [--bytes 50000] [--seeds 3] [--other TEXT]

1. Pretrain a base on the code of Python's own library (`python-source`) for some minutes.
2. Tune it to a little other text (some pages of Python's documentation, or `--other`) in each way, with as many
   steps for each and several seeds, and train a model of the same shape from nothing on that other text for as many
   steps, too.
3. Print a table: what was trained, the best validation loss, and the share of full tuning's gain, means over the seeds.
   A single run is not enough: on so little text the same way gains a twentieth more or less with another seed.

Every step is a command of `handloom`, which is printed; what is there already is not done again. `handloom compare`
makes the page from the runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

WAYS = {
    "full": "--method full --learning-rate 4e-4",
    "last:2": "--method last:2 --learning-rate 5e-4",
    "norms": "--method norms --learning-rate 5e-3",
    "lora": "--method lora --rank 5 --learning-rate 1e-3",
    "lora and rows": "--method lora --rank 1 --alpha 4 --trainable-tokens 264 --learning-rate 1e-3",
}
"""Each way to tune, as flags. The rates of full and lora are the best of those tried (docs/LOG.md)."""


def handloom(*words: object) -> None:
    """Run a command, and show it."""
    command = [str(word) for word in words]
    print(f"\n$ handloom {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "handloom", *command], check=True)


def finished(run: Path) -> dict[str, Any] | None:
    """The summary of a run that has reached its end."""
    path = run / "summary.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found if found.get("finished") else None


def validations(run: Path) -> list[dict[str, Any]]:
    """All validations of a run, the first of them before its first step."""
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [record for record in records if record["kind"] == "validation"]


def best(run: Path) -> dict[str, Any]:
    """The validation with the lowest loss; the run keeps that checkpoint."""
    return min(validations(run), key=lambda record: float(record["loss"]))


def some_pages(folder: Path, limit: int) -> Path:
    """Pages of Python's documentation, chosen by the hash of their text, up to so many bytes."""
    from handloom.data.corpus import open_corpus

    texts = sorted(
        (document.text() for document in open_corpus(("python-docs",)).documents()),
        key=lambda text: hashlib.sha256(text.encode()).hexdigest(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        if limit < 0:
            break
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
        limit -= len(text.encode())
    return folder


def main() -> None:
    """Do what has not been done, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--bytes", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--other")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    asked = parser.parse_args()
    base = asked.folder / "base"
    other = asked.other or some_pages(asked.folder / "pages", asked.bytes)
    common = (
        "--sample-every", 0, "--batch-size", 8, "--context-length", 256, "--eval-every", max(1, asked.steps // 8),
        "--validation-fraction", 0.25,
    )  # fmt: skip
    if finished(base) is None:
        handloom(
            "train", "--data", "python-source", "--preset", "micro", "--minutes", asked.minutes, "--run", base,
            "--validation-fraction", 0.02, "--overwrite",
        )  # fmt: skip
    for way in asked.ways:
        for seed, run in enumerate(runs_of(asked.folder, way, asked.seeds)):
            if finished(run) is None:
                handloom(
                    "finetune", "--model", base, "--data", other, *WAYS[way].split(), "--run", run,
                    "--steps", asked.steps, "--seed", seed, "--overwrite", *common,
                )  # fmt: skip
    scratch = asked.folder / "scratch"
    if finished(scratch) is None:
        handloom(
            "train", "--data", other, "--preset", "micro", "--steps", asked.steps, "--run", scratch, "--overwrite",
            *common,
        )  # fmt: skip
    print_table(asked.folder, asked.ways, asked.seeds)


def runs_of(folder: Path, way: str, seeds: int) -> list[Path]:
    """The runs of a way to tune, one for each seed."""
    return [folder / f"{way.replace(':', '-').replace(' ', '-')}-{seed}" for seed in range(seeds)]


def print_table(folder: Path, ways: list[str], seeds: int) -> None:
    """What each way trained and gained, in Markdown."""
    before = validations(runs_of(folder, ways[0], 1)[0])[0]
    print("\n| way | trained | share | loss (each seed) | bits/byte | of full's gain | tokens/s | peak memory |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print(f"| the base as it is | | | {before['loss']:.3f} | {before['bits_per_byte']:.3f} | | | |")
    lowest = {way: [best(run) for run in runs_of(folder, way, seeds)] for way in ways}
    gains = {way: before["loss"] - mean(found["loss"] for found in lowest[way]) for way in ways}
    for way in ways:
        summaries = [finished(run) or {} for run in runs_of(folder, way, seeds)]
        each = ", ".join(f"{found['loss']:.3f}" for found in lowest[way])
        print(
            f"| {way} | {summaries[0]['trained_parameters']:,} | {summaries[0]['trained_share']:.2%} "
            f"| {before['loss'] - gains[way]:.3f} ({each}) | {mean(f['bits_per_byte'] for f in lowest[way]):.3f} "
            f"| {gains[way] / gains['full']:.0%} | {median(s['tokens_per_second'] for s in summaries):,.0f} "
            f"| {median(s['peak_memory_bytes'] for s in summaries) / 1e6:,.0f} MB |"
        )
    summary, found = finished(folder / "scratch"), best(folder / "scratch")
    assert summary is not None
    print(
        f"| from nothing, its own vocabulary | {summary['parameters']:,} | 100 % | {found['loss']:.3f} "
        f"(step {found['step']}) | {found['bits_per_byte']:.3f} | | {summary['tokens_per_second']:,.0f} | "
        f"{summary['peak_memory_bytes'] / 1e6:,.0f} MB |"
    )


if __name__ == "__main__":
    main()
