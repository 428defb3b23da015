"""How long learning a vocabulary takes, and how fast each encoder is.

python benchmarks/tokenizer.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from handloom.data.corpus import open_corpus
from handloom.tokenizer.gpt2 import TiktokenTokenizer, gpt2_bpe
from handloom.tokenizer.train import train_bpe

MERGES = 4096
BYTES = 5_000_000


def some_text(n_bytes: int) -> list[str]:
    """Documents of the built-in corpora, `n_bytes` of them or a little more."""

    def until_enough() -> Iterator[str]:
        total = 0
        for document in open_corpus(["python-docs", "python-source"]).documents():
            if total >= n_bytes:
                return
            text = document.text()
            total += len(text.encode("utf-8"))
            yield text

    return list(until_enough())


def main() -> None:
    """Print the figures."""
    texts = some_text(BYTES)
    n_bytes = sum(len(text.encode("utf-8")) for text in texts)
    began = time.perf_counter()
    learned = train_bpe(texts, 256 + MERGES + 1)
    print(f"learn {MERGES:,} merges from {n_bytes / 1e6:.2f} MB: {time.perf_counter() - began:.1f} s")
    reference = gpt2_bpe()
    encoders = {
        "GPT-2's vocabulary, by hand": reference,
        "GPT-2's vocabulary, tiktoken": TiktokenTokenizer(reference),
        "learned vocabulary, by hand": learned,
        "learned vocabulary, tiktoken": TiktokenTokenizer(learned),
    }
    for name, encoder in encoders.items():
        began = time.perf_counter()
        tokens = sum(len(encoder.encode(text)) for text in texts)
        seconds = time.perf_counter() - began
        print(f"encode, {name:<30} {n_bytes / seconds / 1e6:6.1f} MB/s  {tokens:,} tokens")


if __name__ == "__main__":
    main()
