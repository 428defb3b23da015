"""Milliseconds per row from logits to a token at a vocabulary of 50,257: as the engine draws, and from the whole row.

    python benchmarks/sampling.py [--rows 1] [--rounds 50] [--threads 2]

Logits are random: "peaked" as those of a trained model, and "flat" as those of an untrained one. "Whole" is
`sample(logits_to_probs(...))`, which sorts for top-p and cumulates everything. The engine's time is that of
`choose_tokens`, all that it does with logits. Medians of rounds that take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from handloom.inference.engine import choose_tokens
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.sampling import logits_to_probs, sample
from handloom.inference.sequence import Sequence
from handloom.runtime import set_num_threads

V = 50_257
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature alone": {},
    "top_k=50": {"top_k": 50},
    "top_p=0.9": {"top_p": 0.9},
    "min_p=0.05": {"min_p": 0.05},
    "typical_p=0.9": {"typical_p": 0.9},
    "top_k=50, top_p=0.9": {"top_k": 50, "top_p": 0.9},
    "top_p=0.9, eos and vocab_size": {"top_p": 0.9, "vocab_size": 50_000, "eos_token_ids": (49_999,)},
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    set_num_threads(asked.threads)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(asked.rows, V, generator=generator)
    uniform = torch.rand(asked.rows, generator=generator, dtype=torch.float64)
    print(f"{'ms per row':<32}{'peaked':>10}{'whole':>10}{'flat':>10}{'whole':>10}")
    for name, settings in SETTINGS.items():
        config = GenerationConfig(**settings)
        sequences = [Sequence([1, 2, 3], config, row=row) for row in range(asked.rows)]
        cells = []
        for logits in (noise * 6, noise * 0.02):
            ways: tuple[Callable[[], Any], ...] = (
                partial(choose_tokens, logits, sequences),
                partial(whole, logits, config, uniform),
            )
            taken: list[list[float]] = [[], []]
            for _ in range(asked.rounds):
                for times, way in zip(taken, ways, strict=True):
                    began = time.perf_counter()
                    way()
                    times.append(time.perf_counter() - began)
            cells += [1000 * statistics.median(times) / asked.rows for times in taken]
        print(f"{name:<32}" + "".join(f"{cell:>10.3f}" for cell in cells))


def whole(logits: torch.Tensor, config: GenerationConfig, uniform: torch.Tensor) -> list[int]:
    """Tokens by the functions that spell everything out."""
    return [int(token) for token in sample(logits_to_probs(logits, config), uniform)]


if __name__ == "__main__":
    main()
