"""What is measured without a worker: the start of a new process, and the tokenizer."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from handloom import runtime
from handloom.bench.kinds import Start, Tokenize
from handloom.bench.report import described, measure, rows_of
from handloom.bench.rounds import Row, percentile
from handloom.checkpoints.hf_export import export_folder
from handloom.data.corpus import open_corpus
from handloom.errors import HandloomError
from handloom.hardware.machine import machine
from handloom.hardware.usage import Meter
from handloom.loading import find_model
from handloom.model.config import preset
from handloom.model.gpt import GPT
from handloom.model.summary import parameter_count
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.train import train_bpe
from handloom.tuned import is_preset

FIRST_TOKEN = """
import sys, time
import torch
imported = time.time()
import handloom
from handloom import runtime
name, precision, threads = sys.argv[1:]
runtime.set_num_threads(int(threads))
lm = handloom.load(name, lambda note: None, precision=precision, merge=True)
loaded = time.time()
lm.generate("The", max_new_tokens=1, temperature=0)
print("times", imported, loaded, time.time(), runtime.peak_memory_bytes())
"""
"""A process that prints when torch was there, when the model was, and when its first token was."""
PARTS = ("import_torch_seconds", "load_seconds", "first_token_seconds")


class Alone:
    """Work that is measured in rounds, each of which reports itself; see `rounds.Measured`."""

    def __init__(self, round_: Callable[[], dict[str, Any]]) -> None:
        self.facts: dict[str, Any] = {}
        self._round = round_
        self._round()  # files are read and packed once, tables are built

    def round(self, threads: int | None = None) -> dict[str, Any]:
        """See `rounds.Measured`."""
        return self._round()

    def during(self, work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float | None]:
        """See `rounds.Measured`."""
        return Meter().during(work)


def start(
    settings: Start, on_note: Callable[[str], None], on_round: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """Start new processes that write one token, and return the report.

    Raises HandloomError for a model that is not there, or a process that fails.
    """
    threads = runtime.set_num_threads(settings.threads)
    config = preset(settings.model) if is_preset(settings.model) else find_model(settings.model, on_note).config
    with tempfile.TemporaryDirectory(prefix="handloom-bench-") as folder:
        name, environment = on_disk(settings.model, Path(folder)), dict(os.environ)
        if name != settings.model:
            environment["HANDLOOM_CACHE"] = str(Path(folder) / "cache")  # what is packed goes with the model
        started = {}
        for precision in rows_of(settings):
            on_round(precision)
            command = [sys.executable, "-c", FIRST_TOKEN, name, precision, str(threads)]
            started[precision] = Alone(partial(first_token, command, environment))
        rows = measure(started, settings.rounds, on_round)
    shown = [
        {
            **_counts("precision", row, lambda done: done["seconds"]),
            **{part: statistics.median(done[part] for done in row.rounds) for part in PARTS},
            "peak_memory_bytes": max(done["peak_memory_bytes"] for done in row.rounds),
        }
        for row in rows
    ]
    return {**described(settings, machine(), threads), "parameters": parameter_count(config), "rows": shown}


def first_token(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """One process, from its start to its first token."""
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    words = next((line.split()[1:] for line in done.stdout.splitlines() if line.startswith("times ")), None)
    if done.returncode or words is None:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise HandloomError(f"A new process wrote no token: {last}.", "`handloom generate` with this model says more.")
    imported, loaded, first, peak = map(float, words)
    parts = dict(zip(PARTS, (imported - began, loaded - imported, first - loaded), strict=True))
    return {"seconds": first - began, **parts, "peak_memory_bytes": int(peak)}


def on_disk(name: str, folder: Path) -> str:
    """The model's name; for a preset a new folder with its shape, random weights and a tokenizer."""
    if not is_preset(name):
        return name
    config, tokenizer = preset(name), load_tokenizer("gpt2")
    if config.vocab_size != tokenizer.vocab_size:
        tokenizer = train_bpe(some_texts(1 << 20), config.vocab_size)
    export_folder(folder / name, GPT(config), tokenizer)
    return str(folder / name)


def tokenize(
    settings: Tokenize, on_note: Callable[[str], None], on_round: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """Encode and decode text with the model's tokenizer, and return the report; bytes are those of UTF-8.

    Raises HandloomError for a model that is not there, or ids of the fast encoder that differ from the reference's.
    """
    random = is_preset(settings.model)
    fast = load_tokenizer("gpt2") if random else find_model(settings.model, on_note).load_tokenizer()
    reference = getattr(fast, "reference", fast)
    texts = some_texts(settings.text_bytes)
    ids = [fast.encode(text) for text in texts]
    same = sum(one == reference.encode(text) for one, text in zip(ids, texts, strict=True)) / len(texts)
    size = sum(len(text.encode()) for text in texts)
    ways: dict[str, Callable[[], object]] = {
        "encode, by hand": lambda: [reference.encode(text) for text in texts],
        "encode, tiktoken": lambda: [fast.encode(text) for text in texts],
        "decode": lambda: [fast.decode(one) for one in ids],
    }
    started = {name: Alone(partial(_timed, work, size)) for name, work in ways.items()}
    rows = measure(started, settings.rounds, on_round)
    shown = [_counts("way", row, lambda done: done["bytes"] / done["seconds"], "bytes_per_second") for row in rows]
    here = {"text_bytes": size, "tokens": sum(map(len, ids)), "same_ids": same}
    return {**described(settings, machine(), 1), **here, "rows": shown}


def some_texts(n_bytes: int) -> list[str]:
    """Documents of the built-in corpus, together about that many bytes; over again where it is shorter."""
    texts, total = [], 0
    documents = [document.text() for document in open_corpus(("python-docs",)).documents()]
    for text in itertools.cycle(documents):
        texts.append(text)
        total += len(text.encode())
        if total >= n_bytes:
            return texts
    return texts


def _timed(work: Callable[[], object], size: int) -> dict[str, Any]:
    began = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - began, "bytes": size}


def _counts(label: str, row: Row, value: Callable[[dict[str, Any]], float], unit: str = "seconds") -> dict[str, Any]:
    """Name, median and best of a row, with the numbers of its rounds."""
    values = [value(done) for done in row.rounds]
    times = sorted(done["seconds"] for done in row.rounds)
    return {
        label: row.name,
        unit: statistics.median(values),
        f"best_{unit}": min(values) if unit == "seconds" else max(values),
        "p95_ms": 1000 * percentile(times, 0.95),
        "rounds": len(values),
        "repeated_rounds": row.repeated,
        "busy_rounds": row.busy,
    }
