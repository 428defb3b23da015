"""Scratch, pretrained and tuned, offline: the whole story, and what each way to tune is worth.

    python benchmarks/story.py FOLDER [--minutes 5] [--steps 400] [--other python-docs] [--methods ...]

1. Pretrain a base on the code of Python's own library (`python-source`) for some minutes.
2. Tune it to other text (`--other`: Python's documentation) by each method, with as many steps for each, and train a
   model of the same shape from nothing on that other text for as many steps, too.
3. Print a table: what was trained, the validation loss before and after, and the share of full tuning's gain.

Every step is a command of `handloom`, which is printed; what is there already is not done again. `handloom compare`
makes the page from the runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

METHODS = ("full", "last:2", "norms", "lora")
RATES = {"full": 2e-3, "last:2": 3e-3, "norms": 2e-2, "lora": 1e-2}
"""Peak learning rates: the best of those tried for each (docs/LOG.md)."""


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


def first_validation(run: Path) -> float:
    """The validation loss before the first step."""
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return float(next(record["loss"] for record in records if record["kind"] == "validation"))


def main() -> None:
    """Do what has not been done, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--other", default="python-docs")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    asked = parser.parse_args()
    base, other = asked.folder / "base", asked.other
    common = ("--sample-every", 0, "--batch-size", 8, "--context", 256)
    if finished(base) is None:
        handloom(
            "train", "--data", "python-source", "--preset", "micro", "--minutes", asked.minutes, "--run", base,
            "--validation-fraction", 0.02, "--overwrite",
        )  # fmt: skip
    for method in asked.methods:
        run = asked.folder / method.replace(":", "-")
        if finished(run) is None:
            handloom(
                "finetune", "--model", base, "--data", other, "--method", method, "--rank", asked.rank, "--run", run,
                "--steps", asked.steps, "--learning-rate", RATES[method], "--overwrite", *common,
            )  # fmt: skip
    scratch = asked.folder / "scratch"
    if finished(scratch) is None:
        handloom(
            "train", "--data", other, "--preset", "micro", "--steps", asked.steps, "--run", scratch, "--overwrite",
            *common,
        )  # fmt: skip
    print_table(asked.folder, asked.methods)


def print_table(folder: Path, methods: tuple[str, ...]) -> None:
    """What each method trained and gained, in Markdown."""
    full = finished(folder / "full")
    before = first_validation(folder / methods[0].replace(":", "-"))
    print(
        "\n| method | trained | share | validation loss | bits/byte | of full's gain | tokens/s | peak memory |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print(f"| base, as it is | | | {before:.3f} | | | | |")
    for method in methods:
        found = finished(folder / method.replace(":", "-"))
        assert found is not None
        gain = (before - found["val_loss"]) / (before - full["val_loss"]) if full else float("nan")
        print(
            f"| {method} | {found['trained_parameters']:,} | {found['trained_share']:.2%} | {found['val_loss']:.3f} | "
            f"{found['val_bits_per_byte']:.3f} | {gain:.0%} | {found['tokens_per_second']:,.0f} | "
            f"{found['peak_memory_bytes'] / 1e6:,.0f} MB |"
        )
    found = finished(folder / "scratch")
    assert found is not None
    print(
        f"| from scratch, its own vocabulary | {found['parameters']:,} | 100 % | {found['val_loss']:.3f} | "
        f"{found['val_bits_per_byte']:.3f} | | {found['tokens_per_second']:,.0f} | "
        f"{found['peak_memory_bytes'] / 1e6:,.0f} MB |"
    )


if __name__ == "__main__":
    main()
