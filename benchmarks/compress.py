"""What `xz -9` needs for the held-out text of the built-in documentation, in bits per byte.

    python benchmarks/compress.py

A language model that predicts text well could compress it well: its bits per byte are what an ideal
coder would need with it. The compressor sees the held-out documents alone, all of them at once.
"""

from __future__ import annotations

import lzma

from handloom.data.corpus import open_corpus
from handloom.data.split import VALIDATION, assign_splits, pieces


def main() -> None:
    """Print the figure."""
    corpus = open_corpus(["python-docs"])
    plan = assign_splits(corpus)
    text = "".join(piece.text for piece in pieces(corpus, plan) if piece.split == VALIDATION).encode("utf-8")
    packed = lzma.compress(text, preset=9)
    print(f"xz -9: {8 * len(packed) / len(text):.3f} bits per byte on {len(text):,} held-out bytes")


if __name__ == "__main__":
    main()
