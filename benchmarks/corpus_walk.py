"""How fast plain text is walked through, before any of it is tokenized: one large file, and one of many short stories.

    python benchmarks/corpus_walk.py

Prints MB/s of processor time, the median of five walks after one that warms the disk's cache.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from handloom.data.corpus import open_corpus

SENTENCE = "The quick brown fox jumps over the lazy dog, and the dog does not mind.\n"
BYTES = 45_000_000


def walk(path: Path) -> float:
    """Processor seconds of one walk over every character."""
    began = time.process_time()
    for document in open_corpus([str(path)]).documents():
        for piece in document.pieces():
            len(piece)
    return time.process_time() - began


def main() -> None:
    """Measure both texts."""
    story = SENTENCE * 12 + "<|endoftext|>\n"
    texts = {"one large text": SENTENCE, "stories of 900 bytes": story}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            path = Path(folder) / "text.txt"
            path.write_text(text * (BYTES // len(text)), encoding="utf-8")
            walk(path)
            seconds = statistics.median(walk(path) for _ in range(5))
            print(f"{name}: {path.stat().st_size / 1e6 / seconds:,.0f} MB/s")


if __name__ == "__main__":
    main()
