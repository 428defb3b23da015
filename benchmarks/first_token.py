"""From a new process to the first token of a 124M model: Handloom and transformers, on the same folder.

    python benchmarks/first_token.py [--precision int8] [--rounds 5]

A new folder is made, with GPT-2's shape and vocabulary and random weights. Needs transformers (a development extra).
Each round starts one process for each, and one that only imports torch; the medians are compared, and the peak memory
of each. In int8, int4 and fp16 the first start, which packs the model, is shown apart from the later ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = """
import sys, handloom
next(handloom.load(sys.argv[1], precision=sys.argv[2]).stream("Learning is", max_new_tokens=1), None)
"""
TORCH = "import torch"
PEAK = """
from handloom.runtime import peak_memory_bytes
print(peak_memory_bytes())
"""
THEIRS = """
import sys
from transformers import GPT2LMHeadModel, GPT2Tokenizer
tokenizer, model = (kind.from_pretrained(sys.argv[1]) for kind in (GPT2Tokenizer, GPT2LMHeadModel))
model.generate(**tokenizer("Learning is", return_tensors="pt"), max_new_tokens=1, do_sample=False, pad_token_id=50256)
"""
MAKE = """
import sys
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel
from handloom.tokenizer import load_tokenizer
Path(sys.argv[1]).mkdir()
GPT2LMHeadModel(GPT2Config()).save_pretrained(sys.argv[1])
load_tokenizer("gpt2").save(Path(sys.argv[1]))
"""


def run(script: str, folder: Path, precision: str = "fp32") -> tuple[float, float]:
    """Seconds that a process with this script takes, and the most memory it has, in MB."""
    began = time.perf_counter()
    environment = {**os.environ, "HANDLOOM_CACHE": str(folder / "cache")}
    words = [sys.executable, "-c", script + PEAK, str(folder / "model"), precision]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    return time.perf_counter() - began, int(done.stdout.splitlines()[-1]) / 1e6


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    how = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        run(MAKE, folder)
        first = run(OURS, folder, how.precision)
        taken: dict[str, list[tuple[float, float]]] = {"handloom": [], "transformers": [], "import torch": []}
        for _ in range(how.rounds):
            taken["handloom"].append(run(OURS, folder, how.precision))
            taken["transformers"].append(run(THEIRS, folder))
            taken["import torch"].append(run(TORCH, folder))
    if how.precision != "fp32":
        print(f"handloom {how.precision}, first start {first[0]:.2f} s, {first[1]:,.0f} MB")
    medians = {}
    for name, runs in taken.items():
        medians[name], memory = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"{name:<13} {medians[name]:.2f} s, {memory:,.0f} MB")
    print(f"ratio         {medians['handloom'] / medians['transformers']:.2f}")
    print(f"handloom is {medians['handloom'] - medians['import torch']:.2f} s behind an import of torch")


if __name__ == "__main__":
    main()
