"""How fast text becomes token shards, in how much memory; next to it tiktoken's own batch encoding.

    python benchmarks/prepare.py --megabytes 100

Ours is the whole of `handloom.data.tokenized.prepare`: walking the text twice, hashing, splitting, tokenizing in
threads, writing and checking the shards. tiktoken's is `encode_ordinary_batch` alone,
on the same pieces in one process, with as many threads; its tokens are thrown away.
Each runs in a process tree of its own, whose memory (proportional set size) is sampled from outside.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from handloom.data.builtin import python_source
from handloom.data.chunking import chunk_text
from handloom.data.corpus import open_corpus
from handloom.data.tokenized import prepare
from handloom.runtime import available_cores
from handloom.tokenizer import load_tokenizer

_MB = 1_000_000


def write_text(path: Path, n_bytes: int, seed: int = 0) -> None:
    """One text file of about `n_bytes`: paragraphs of the standard library in random order, with random words."""
    chance = random.Random(seed)
    paragraphs = "".join(text for _, text in python_source()).split("\n\n")
    words = sorted({word for text in paragraphs[:2000] for word in text.split() if word.isalpha()})
    written = 0
    with path.open("wb") as file:
        while written < n_bytes:
            chosen = [f"{chance.choice(paragraphs)}\n# {' '.join(chance.sample(words, 8))}" for _ in range(500)]
            written += file.write(("\n\n".join(chosen) + "\n").encode("utf-8"))


def measured(arguments: list[str], cache: Path) -> dict[str, Any]:
    """Run this script with `arguments` and sample the memory of its process tree.

    Returns:
        what it printed as JSON, and `peak_bytes` of all its processes together.
    """
    command = [sys.executable, __file__, *arguments]
    environment = {**os.environ, "HANDLOOM_CACHE": str(cache)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        peak = [0]
        sampler = threading.Thread(target=_sample, args=(psutil.Process(process.pid), peak))
        sampler.start()
        output, _ = process.communicate()
        sampler.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}")
    return {**json.loads(output), "peak_bytes": peak[0]}


def _sample(root: psutil.Process, peak: list[int]) -> None:
    while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
        peak[0] = max(peak[0], sum(map(_memory, _tree(root))))
        time.sleep(0.02)


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory(process: psutil.Process) -> int:
    """Its share of memory where the system tells (Linux), else all that is resident."""
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(getattr(memory, "pss", memory.rss))


def _ours(file: Path, workers: int) -> dict[str, Any]:
    began = time.perf_counter()
    report = prepare(file, load_tokenizer("gpt2"), workers=workers).report
    return {"seconds": time.perf_counter() - began, "tokens": report.train_tokens + report.validation_tokens}


def _tiktokens(file: Path, workers: int) -> dict[str, Any]:
    encoding = load_tokenizer("gpt2")._encoding
    seconds, tokens = 0.0, 0
    for pieces in _groups(file, 4 * workers):
        began = time.perf_counter()
        tokens += sum(map(len, encoding.encode_ordinary_batch(pieces, num_threads=workers)))
        seconds += time.perf_counter() - began
    return {"seconds": seconds, "tokens": tokens}


def _groups(file: Path, size: int) -> Iterator[list[str]]:
    for document in open_corpus(file).documents():
        pieces = chunk_text(document.pieces())
        while group := list(islice(pieces, size)):
            yield group


def main() -> None:
    """Generate the text, measure both, print them side by side."""
    parser = argparse.ArgumentParser(description="Speed and memory of preparing text.")
    parser.add_argument("--megabytes", type=int, default=100, help="size of the generated text")
    parser.add_argument("--workers", type=int, default=available_cores(), help="threads, ours and tiktoken's")
    parser.add_argument("--only", choices=("ours", "tiktoken"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps((_ours if given.only == "ours" else _tiktokens)(given.file, given.workers)))
        return
    with tempfile.TemporaryDirectory(prefix="handloom-benchmark-") as folder:
        file = Path(folder, "text.txt")
        write_text(file, given.megabytes * _MB)
        size = file.stat().st_size
        print(f"{size / _MB:,.0f} MB of text, {given.workers} threads")
        for name in ("ours", "tiktoken"):
            arguments = ["--only", name, "--file", str(file), "--workers", str(given.workers)]
            result = measured(arguments, Path(folder))
            print(
                f"{name:<10}{result['seconds']:8.1f} s {size / _MB / result['seconds']:8.1f} MB/s "
                f"{result['tokens']:14,} tokens {result['peak_bytes'] / _MB:8.0f} MB peak memory of all processes"
            )


if __name__ == "__main__":
    main()
