"""Tokens a second of 16 texts generated together, GPT-2's 124M shape, and where the time of a step goes.

    python benchmarks/batch.py [--rows 16] [--tokens 128] [--prompt 32] [--rounds 3] [--only fp32,int8,int4] [--shared]

Random weights, different prompts (with `--shared` all but their last token is the same), greedy and with top_p=0.9,
GPT-2's tokenizer and a stop string. Prefill and steps are timed together, as a user waits for them; "model" is the
forward pass of a step, "choose" logits to tokens, "text" detokenizing, stop strings and the engine's bookkeeping.
Medians of rounds in which the precisions take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from handloom import runtime
from handloom.inference.engine import Engine, choose_tokens
from handloom.inference.generation_config import GenerationConfig
from handloom.model.config import preset
from handloom.model.gpt import GPT
from handloom.quantization.precision import set_precision
from handloom.tokenizer import load_tokenizer


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", default="fp32,int8,int4")
    parser.add_argument("--shared", action="store_true")
    asked = parser.parse_args()
    runtime.set_num_threads(asked.threads)
    tokenizer = load_tokenizer("gpt2")
    models = {name: set_precision(GPT(preset("gpt2")).eval(), name) for name in asked.only.split(",")}
    ways = {(name, p): GenerationConfig(**settings) for name in models for p, settings in SETTINGS.items()}
    taken: dict[tuple[str, str], list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(asked.rounds):
        for (name, p), config in ways.items():
            config = config.changed(max_new_tokens=asked.tokens)
            taken[name, p].append(generate(models[name], tokenizer, config, asked))
    print(f"{'':<18}{'tokens/s':>10}{'prefill, s':>12}{'a step, ms':>12}{'model':>8}{'choose':>8}{'text':>8}")
    for (name, p), rounds in taken.items():
        median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        cells = (f"{median[key]:>{width}.{digits}f}" for key, width, digits in COLUMNS)
        print(f"{name + ', ' + p:<18}" + "".join(cells))


SETTINGS: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0}, "top_p=0.9": {"top_p": 0.9}}
COLUMNS = (
    ("rate", 10, 1), ("prefill", 12, 3), ("step", 12, 2), ("model", 8, 2), ("choose", 8, 2), ("text", 8, 2),
)  # fmt: skip


def generate(model: GPT, tokenizer: Any, config: GenerationConfig, asked: argparse.Namespace) -> dict[str, float]:
    """Seconds and milliseconds of all texts."""
    spent = {"model": 0.0, "choose": 0.0}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            began = time.perf_counter()
            result = call(*given)
            spent[name] += time.perf_counter() - began
            return result

        return run

    engine = Engine(model, tokenizer, max_rows=asked.rows, choose=timed("choose", choose_tokens))
    engine._batch.next_logits = timed("model", engine._batch.next_logits)  # type: ignore[method-assign]
    for row in range(asked.rows):
        own = 0 if asked.shared else 1000 * row
        prompt = [*(own + place for place in range(asked.prompt - 1)), 100 + row]
        engine.add(prompt, config.changed(stop="\n\n\n\n", eos_token_ids=()), row=row)
    began = time.perf_counter()
    engine.step()
    prefill = time.perf_counter() - began
    spent.update(model=0.0, choose=0.0)
    count = sum(event.token is not None for event in engine.run())
    total = time.perf_counter() - began
    steps = max(1, asked.tokens - 1)
    each = {name: 1000 * seconds / steps for name, seconds in spent.items()}
    step = 1000 * (total - prefill) / steps
    rest = step - sum(each.values())
    return {"rate": (count + asked.rows) / total, "prefill": prefill, "step": step, **each, "text": rest}


if __name__ == "__main__":
    main()
