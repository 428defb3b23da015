"""What stop strings add to beam search: 1,000 tokens, 4 beams, with and without one that never comes.

    python benchmarks/beam_stops.py

The model is tiny (2 layers, width 32, random weights), so that the work outside of the model counts. Five rounds of
each by turns; the medians are compared.
"""

from __future__ import annotations

import statistics
import time

from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.runtime import set_num_threads
from handloom.tokenizer.train import train_bpe

TOKENS = 1000
STOPS: dict[str, tuple[str, ...]] = {"no stop string": (), "--stop zzz": ("zzz",)}


def main() -> None:
    """Print the medians and their ratio."""
    set_num_threads(1)
    tokenizer = train_bpe(["the loom and the weaver "] * 5, 300)
    shape = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=1024, layers=2, heads=2, embed_dim=32)
    lm = LanguageModel(GPT(shape, 0), tokenizer)
    request = GenerationConfig.of(max_new_tokens=TOKENS, min_new_tokens=TOKENS, num_beams=4)
    taken: dict[str, list[float]] = {name: [] for name in STOPS}
    for _ in range(5):
        for name, stop in STOPS.items():
            began = time.perf_counter()
            (completion,) = lm.complete("The", request, stop=stop).completions
            taken[name].append(time.perf_counter() - began)
            assert len(completion.ids) == TOKENS
    medians = [statistics.median(times) for times in taken.values()]
    for name, median in zip(STOPS, medians, strict=True):
        print(f"{name:<15} {median:.2f} s")
    print(f"ratio           {medians[1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
