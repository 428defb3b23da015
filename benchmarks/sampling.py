"""Milliseconds per row from logits to a token at a vocabulary of 50,257: by the best 512 tokens, and by sorting all.

    python benchmarks/sampling.py [--rows 1] [--rounds 50]

Logits are random: "peaked" as those of a trained model, where the best 512 tokens suffice, and "flat" as those of an
untrained one, where everything is sorted after all. One thread; medians of rounds that take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from handloom.inference import sampling
from handloom.inference.generation_config import SamplingParams
from handloom.runtime import set_num_threads

V = 50_257
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature alone": {},
    "top_k=50": {"top_k": 50},
    "top_p=0.9": {"top_p": 0.9},
    "min_p=0.05": {"min_p": 0.05},
    "typical_p=0.9": {"typical_p": 0.9},
    "top_k=50, top_p=0.9": {"top_k": 50, "top_p": 0.9},
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    asked = parser.parse_args()
    set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(asked.rows, V, generator=generator)
    uniform = torch.rand(asked.rows, generator=generator, dtype=torch.float64)
    few = sampling._BEST
    print(f"{'ms per row':<24}{'peaked':>10}{'sorted':>10}{'flat':>10}{'sorted':>10}")
    for name, settings in SETTINGS.items():
        params, cells = SamplingParams(**settings), []
        for logits in (noise * 6, noise * 0.02):
            taken: dict[int, list[float]] = {few: [], V: []}
            for _ in range(asked.rounds):
                for best in taken:
                    sampling._BEST = best
                    began = time.perf_counter()
                    sampling.sample(sampling.logits_to_probs(logits, params), uniform)
                    taken[best].append(time.perf_counter() - began)
            cells += [1000 * statistics.median(times) / asked.rows for times in taken.values()]
        print(f"{name:<24}" + "".join(f"{cell:>10.2f}" for cell in cells))


if __name__ == "__main__":
    main()
