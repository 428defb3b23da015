"""Prompt-lookup speculation: what a pass over k proposed tokens costs, and what it brings on two kinds of text.

    python benchmarks/prompt_lookup.py [MODEL] [--tokens 150] [--rounds 5]

Without a MODEL: GPT-2's 124M shape, random weights, 200 tokens read: the time of a pass over one token and k proposed
ones, in single tokens; speculation pays where more than that less one are accepted. With a trained MODEL (as the demo
leaves one): tokens a second with and without it, for a passage of Python's documentation that begins a third time, and
for the beginning of a document. Medians of rounds that take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import handloom
from handloom import runtime
from handloom.inference.batch import Batch
from handloom.inference.completions import GenerationStats
from handloom.inference.language_model import LanguageModel
from handloom.model.config import preset
from handloom.model.gpt import GPT
from handloom.quantization.precision import set_precision

PASSAGE = (
    "Return a copy of the string with leading and trailing characters removed. The chars argument is a string "
    "specifying the set of characters to be removed. If omitted or None, the chars argument defaults to removing "
    "whitespace.\n\n"
)
PROMPTS = {"copies": PASSAGE * 2 + PASSAGE[:40], "ordinary": "This module provides"}
PRECISIONS = ("fp32", "int8", "int4")


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    runtime.set_num_threads(None)
    if asked.model is None:
        print(f"{'124M, a pass of 1 + k':<24}" + "".join(f"{f'k = {k}':>9}" for k in (0, *COUNTS)))
    for precision in PRECISIONS if asked.model is None else ():
        costs = passes(set_precision(GPT(preset("gpt2")).eval(), precision), 4 * asked.rounds)
        print(f"{precision:<24}{1000 * costs[0]:>6.1f} ms" + "".join(f"{costs[k] / costs[0]:>9.2f}" for k in COUNTS))
    for precision in PRECISIONS if asked.model else ():
        lm = handloom.load(asked.model, precision=precision)
        for name, temperature in (("copies", 0.0), ("ordinary", 0.0), ("ordinary", 0.8)):
            compare(lm, f"{precision}, {name}, {temperature}", (PROMPTS[name], temperature), asked)


COUNTS = (1, 2, 3, 4, 6, 8)


@torch.inference_mode()
def passes(model: GPT, rounds: int) -> dict[int, float]:
    """Seconds of a pass over one token and k proposed ones, by k."""
    batch = Batch(model)
    batch.add(list(range(1000, 1200)), 100)
    batch.next_logits()
    ways: dict[int, Callable[[], torch.Tensor]] = {k: partial(batch.verify, list(range(k))) for k in COUNTS}
    ways[0] = batch.next_logits
    taken: dict[int, list[float]] = {k: [] for k in ways}
    batch.texts[0].append(7)
    for _ in range(rounds):
        for k, run in ways.items():
            began = time.perf_counter()
            run()
            taken[k].append(time.perf_counter() - began)
            batch.crop()
    return {k: statistics.median(times) for k, times in taken.items()}


def compare(lm: LanguageModel, name: str, request: tuple[str, float], asked: argparse.Namespace) -> None:
    """Print the speeds with and without, and what was accepted."""
    prompt, temperature = request
    rates: dict[int | None, list[float]] = {None: [], 3: [], 6: []}
    last: dict[int | None, GenerationStats] = {}
    texts = set()
    for _ in range(asked.rounds):
        for k, found in rates.items():
            settings = {"max_new_tokens": asked.tokens, "temperature": temperature, "overflow": "slide"}
            last[k] = GenerationStats()
            outputs = lm.complete_each([prompt], stats=last[k], prompt_lookup_num_tokens=k, **settings)
            texts.add(next(outputs).completions[0].text)
            found.append(last[k].later_tokens / (last[k].seconds - last[k].first_token_seconds))
    medians = {k: statistics.median(found) for k, found in rates.items()}
    cells = [f"{name:<24}{medians[None]:>8.0f} tokens/s"]
    for k in (3, 6):
        done = last[k].speculation
        cells.append(f"k = {k}: x {medians[k] / medians[None]:.2f} ({done.accepted}/{done.proposed})")
    print("  ".join(cells) + ("" if len(texts) == 1 else f"  {len(texts)} texts"))


if __name__ == "__main__":
    main()
