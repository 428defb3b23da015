"""What each precision costs a trained model: perplexity on its held-out text, against fp32, and greedy agreement.

    python benchmarks/precision_quality.py [--model RUN] [--minutes 6.5] [--tokens 30000] [--parts]

Without a model, one of 4.3 million parameters (preset `micro`) is trained on `python-docs` first. With `--parts` also
the weights of one kind, and of one block, in int4 while the others stay float32: where the loss comes from.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import handloom
from handloom.evaluation.texts import TrainingText
from handloom.inference.language_model import LanguageModel
from handloom.inspection.quality import WINDOW, Quality, compare_precision, predict
from handloom.loading import find_model
from handloom.model.gpt import GPT
from handloom.model.surgery import linear_layers
from handloom.quantization.packing import pack, unpack
from handloom.quantization.precision import PACKED, QUALITY_BOUNDS
from handloom.runtime import has_native_bf16


def train(folder: Path, minutes: float) -> Path:
    """A run on the built-in documentation."""
    run = folder / "micro"
    words = ["train", "--data", "python-docs", "--preset", "micro", "--minutes", str(minutes), "--run", str(run)]
    subprocess.run([sys.executable, "-m", "handloom", *words], check=True)
    return run


def held_out(lm: LanguageModel, run: Path, tokens: int) -> list[Tensor]:
    """Windows of the text that the run did not learn from, each (T) int64."""
    source = find_model(run, lambda note: None)
    ids: list[int] = []
    for _, pieces in TrainingText(source.training, lm.tokenizer).held_out():  # type: ignore[union-attr]
        ids += [lm.tokenizer.eos_token_id, *lm.tokenizer.encode("".join(pieces))]
        if len(ids) > tokens:
            break
    size = min(WINDOW, lm.config.context_length)
    return [torch.tensor(ids[at : at + size + 1]) for at in range(0, min(tokens, len(ids) - 1), size)]


def rounded_in_part(model: GPT) -> Iterator[tuple[str, GPT]]:
    """The model with some of its matrices rounded to int4."""
    paths = [path for path, _ in linear_layers(model)]
    kinds = sorted({path.split(".", 2)[2] for path in paths})
    blocks = [f"blocks.{number}." for number in range(len(model.blocks))]
    for part in (*kinds, *blocks):
        other = copy.deepcopy(model)
        for path, layer in linear_layers(other):
            if path.endswith(part) or path.startswith(part):
                weight = layer.get_parameter("weight")
                weight.data = unpack(pack(weight, "int4"))
        yield part, other


def show(name: str, found: Quality, bound: float | None = None) -> None:
    """One line of the table."""
    limit = "" if bound is None else f"{bound:g} %"
    print(
        f"| {name:<22} | {found.perplexity:9.4f} | {found.change:+8.4f} ± {found.error:.4f} | {limit:>7} | "
        f"{found.agreement:7.2%} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--minutes", type=float, default=6.5)
    parser.add_argument("--tokens", type=int, default=30_000)
    parser.add_argument("--parts", action="store_true")
    how = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = how.model or train(Path(folder), how.minutes)
        lm = handloom.load(run)
        windows = held_out(lm, run, how.tokens)
        exact = predict(lm.model, windows)
        count = sum(p.numel() for p in lm.model.parameters())
        print(f"{count:,} parameters, {len(exact[0]):,} held-out tokens\n")
        print("| weights                | perplexity | difference in %     | bound   | greedy agreement |")
        print("| --- | --- | --- | --- | --- |")
        show("fp32", compare_precision("fp32", exact, exact))
        for precision in (*PACKED, *(["bf16"] if has_native_bf16() else [])):
            rounded = handloom.load(run, precision=precision).model
            show(precision, compare_precision(precision, exact, predict(rounded, windows)), QUALITY_BOUNDS[precision])
        for part, model in rounded_in_part(lm.model) if how.parts else ():
            show(f"int4: {part}", compare_precision("int4", exact, predict(model, windows)))


if __name__ == "__main__":
    main()
