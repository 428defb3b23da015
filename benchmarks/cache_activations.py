"""Activation cache: how much faster a step is when the outputs of frozen blocks come from the disk.

    python benchmarks/cache_activations.py [--shape gpt2] [--method last:2] [--epochs 4]

Tunes a model of random weights twice, with and without the cache, and compares the median step of the epochs after
the first. The losses of both runs have to be the same to the last bit.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
from pathlib import Path

from handloom.checkpoints.hf_export import export_folder
from handloom.data.corpus import open_corpus
from handloom.model.config import preset
from handloom.model.gpt import GPT
from handloom.tokenizer import load_tokenizer
from handloom.training import run
from handloom.training.config import FinetuneConfig
from handloom.training.metrics_log import read_metrics

TEXT = 60_000
"""Characters to tune on: about 15,000 tokens."""


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="gpt2")
    parser.add_argument("--method", default="last:2")
    parser.add_argument("--epochs", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base, text = Path(scratch) / "base", Path(scratch) / "text.txt"
        export_folder(base, GPT(preset(asked.shape)), load_tokenizer("gpt2"))
        documents = "\n\n".join(document.text() for document in open_corpus(("python-docs",)).documents())
        text.write_text(documents[:TEXT], encoding="utf-8")
        medians, losses = {}, {}
        for remember in (True, False):
            out = Path(scratch) / f"run-{remember}"
            config = FinetuneConfig(
                model=str(base), data=(str(text),), method=asked.method, context_length=256, batch_size=4,
                epochs=asked.epochs, remember=remember, sample_every=0, eval_every=10**6, checkpoint_every=10**6,
            )  # fmt: skip
            summary = run.begin(out, config)
            records = [r for r in read_metrics(out) if r["kind"] == "train"]
            per_epoch = math.ceil(summary["steps"] / asked.epochs)
            times = [after["seconds"] - before["seconds"] for before, after in itertools.pairwise(records)]
            first, rest = statistics.median(times[:per_epoch]), statistics.median(times[per_epoch:])
            medians[remember], losses[remember] = rest, [r["loss"] for r in records]
            word = "remembered" if remember else "computed  "
            print(f"{word}  first epoch {first:.3f} s a step, later ones {rest:.3f} s", flush=True)
        same = losses[True] == losses[False]
        print(f"{medians[False] / medians[True]:.2f} times as quick; losses {'the same' if same else 'DIFFER'}")


if __name__ == "__main__":
    main()
