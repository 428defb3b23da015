"""From a new process to the first token of a 124M model: Handloom and transformers, on the same folder.

    python benchmarks/first_token.py

A new folder is made, with GPT-2's shape and vocabulary and random weights. Needs transformers (a
development extra). Each of five rounds starts one process for each; the medians are compared.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = """
import sys, handloom
next(handloom.load(sys.argv[1]).stream("Learning is", max_new_tokens=1), None)
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
GPT2LMHeadModel(GPT2Config()).save_pretrained(sys.argv[1])
load_tokenizer("gpt2").save(Path(sys.argv[1]))
"""


def seconds(script: str, folder: Path) -> float:
    """How long a process with this script takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the medians and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        seconds(MAKE, Path(folder))
        taken: dict[str, list[float]] = {"handloom": [], "transformers": []}
        for _ in range(5):
            taken["handloom"].append(seconds(OURS, Path(folder)))
            taken["transformers"].append(seconds(THEIRS, Path(folder)))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    for name, median in medians.items():
        print(f"{name:<13} {median:.2f} s")
    print(f"ratio         {medians['handloom'] / medians['transformers']:.2f}")


if __name__ == "__main__":
    main()
