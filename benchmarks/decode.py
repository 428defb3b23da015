"""Tokens a second at 124M, one text, greedy: Handloom, transformers, and Handloom with weights in PyTorch's order.

    python benchmarks/decode.py [--tokens 128] [--rounds 5]

GPT-2's files hold the blocks' matrices turned, and we read them as they lie, mapped and without a copy. The second row
has copied them into PyTorch's order first: is it worth the memory? Random weights, a prompt of 32 tokens, float32;
medians of rounds that take turns. Needs transformers (a development extra).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from handloom import runtime
from handloom.checkpoints import hf_folder
from handloom.checkpoints.hf_export import export_folder
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.model.config import preset
from handloom.model.gpt import GPT
from handloom.tokenizer import load_tokenizer
from handloom.training.setup import materialize


def main() -> None:
    """Print the medians."""
    from transformers import GPT2LMHeadModel

    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    runtime.set_num_threads(None)
    prompt = torch.arange(1000, 1032)[None]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "gpt2"
        export_folder(folder, GPT(preset("gpt2")), load_tokenizer("gpt2"))
        mapped, copied = hf_folder.open_folder(folder).load_model(), hf_folder.open_folder(folder).load_model()
        materialize(copied)
        for parameter in copied.parameters():
            parameter.data = parameter.data.contiguous()
        theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
        length = prompt.shape[1] + asked.tokens
        ways = {
            "handloom, as the file lies": lambda: generate(mapped, asked.tokens),
            "handloom, in its own order": lambda: generate(copied, asked.tokens),
            "transformers": lambda: theirs.generate(
                prompt, max_length=length, min_length=length, do_sample=False, pad_token_id=50256
            ),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(asked.rounds):
            for name, write in ways.items():
                began = time.perf_counter()
                write()
                taken[name].append(time.perf_counter() - began)
    for name, times in taken.items():
        print(f"{name:<28}{asked.tokens / statistics.median(times):6.1f} tokens/s")


def generate(model: GPT, tokens: int) -> None:
    """Greedily, after the prompt."""
    engine = Engine(model)
    engine.add(range(1000, 1032), GenerationConfig(max_new_tokens=tokens, temperature=0))
    for _ in engine.run():
        pass


if __name__ == "__main__":
    main()
