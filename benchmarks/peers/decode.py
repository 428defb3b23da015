"""Tokens a second of GPT-2's 124M shape, ours and other engines': each in its own process, taking turns in one run.

    python benchmarks/peers/decode.py [--tokens 128] [--rounds 5] [--only handloom] [--threads 2]

Random weights, a prompt of 32 tokens, greedy. A round in which other processes used more than 0.15 of a core is
repeated, up to three times, and counted. An engine that is not installed is named as missing. Tokens after the first
are timed; llama.cpp by its own clock. With each speed stands the share of the memory's read bandwidth, measured in
the same run, that reading the weights once a token amounts to. Loading is timed once, with the files in the page cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT = list(range(1000, 1032))
ENGINES = {
    **{f"handloom {precision}": "handloom.loading" for precision in ("fp32", "fp16", "int8", "int4")},
    "transformers fp32": "transformers.models.gpt2.modeling_gpt2",
    **{f"llama.cpp {kind}": "xllamacpp" for kind in ("f32", "f16", "q8_0", "q4_0")},
    "ctranslate2 int8": "ctranslate2",
}
"""Engine and format: the module that has to be there."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="engines whose names begin so, separated by commas")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve, asked.folder, asked.tokens, asked.threads)
        return
    wanted = [name for name in ENGINES if any(name.startswith(one) for one in asked.only.split(","))]
    missing = [name for name in wanted if importlib.util.find_spec(ENGINES[name].partition(".")[0]) is None]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_models(folder)
        measure([name for name in wanted if name not in missing], folder, asked)
    for name in missing:
        print(f"{name:<20} not installed")


def measure(names: list[str], folder: Path, asked: argparse.Namespace) -> None:
    """Let the engines take turns, and print what they reached."""
    workers = {name: start(name, folder, asked) for name in names}
    speeds: dict[str, list[float]] = {name: [] for name in names}
    disturbed = 0
    bandwidths = []
    for _ in range(asked.rounds):
        bandwidths.append(bandwidth(asked.threads))
        for name, worker in workers.items():
            for _ in range(4):
                speed, others = one_round(worker)
                if others < 0.15:
                    break
                disturbed += 1
            speeds[name].append(speed)
    gigabytes = statistics.median(bandwidths)
    sizes = {name: workers[name].megabytes for name in names}
    for worker in workers.values():
        worker.process.stdin.close()
        worker.process.wait()
    print(f"{processor()}, {asked.threads} threads; read bandwidth {gigabytes:.1f} GB/s; {disturbed} rounds repeated")
    print(f"{'':<20}{'median':>8}{'best':>8}  tokens/s; share of bandwidth; peak memory MB; seconds to load")
    for name in names:
        median = statistics.median(speeds[name])
        print(
            f"{name:<20}{median:8.1f}{max(speeds[name]):8.1f}"
            f"{median * sizes[name] / 1000 / gigabytes:8.0%}{workers[name].peak:8.0f}{workers[name].load_seconds:8.2f}"
        )


class Worker:
    """A process with one engine, and what it said of itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.megabytes, self.load_seconds = map(float, self.read().split())
        self.peak = 0.0

    def read(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"An engine ended: {self.process.args!r}")
        return line


def start(name: str, folder: Path, asked: argparse.Namespace) -> Worker:
    """The engine in a process of its own, warmed up."""
    command = [sys.executable, __file__, "--serve", name, "--folder", str(folder)]
    command += ["--tokens", str(asked.tokens), "--threads", str(asked.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads)}
    return Worker(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment))


def one_round(worker: Worker) -> tuple[float, float]:
    """(Tokens a second, cores that other processes used meanwhile)."""
    busy, own, began = cores_busy(), process_seconds(worker.process.pid), time.perf_counter()
    assert worker.process.stdin is not None
    worker.process.stdin.write("go\n")
    worker.process.stdin.flush()
    speed, worker.peak = map(float, worker.read().split())
    seconds = time.perf_counter() - began
    return speed, (cores_busy() - busy - (process_seconds(worker.process.pid) - own)) / seconds


def cores_busy() -> float:
    """Seconds that all cores have worked, since the machine started."""
    fields = [int(field) for field in Path("/proc/stat").read_text("ascii").splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def process_seconds(process: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bandwidth(threads: int) -> float:
    """GB/s of reading 400 MB, the best of five."""
    import torch

    torch.set_num_threads(threads)
    numbers, best = torch.ones(100_000_000), 0.0
    for _ in range(5):
        began = time.perf_counter()
        numbers.sum()
        best = max(best, 0.4 / (time.perf_counter() - began))
    return best


def processor() -> str:
    """Its name, and its vector instructions."""
    import torch

    lines = Path("/proc/cpuinfo").read_text("ascii").splitlines()
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def make_models(folder: Path) -> None:
    """The model in each format that an engine reads."""
    import gguf
    import torch

    from handloom.checkpoints import gguf_export
    from handloom.checkpoints.hf_export import export_folder
    from handloom.model.config import preset
    from handloom.model.gpt import GPT
    from handloom.tokenizer import load_tokenizer

    model, tokenizer = GPT(preset("gpt2")), load_tokenizer("gpt2")
    export_folder(folder / "hf", model, tokenizer)
    plain = gguf_export._write_tensors
    for kind in ("f32", "f16"):
        gguf_export.export_gguf(folder / kind, model, tokenizer, precision=kind)  # type: ignore[arg-type]

    def quantized(form: gguf.GGMLQuantizationType) -> Callable[..., None]:
        def write(writer: Any, tensors: dict[str, torch.Tensor], halves: set[str]) -> None:
            for name, tensor in tensors.items():
                numbers = tensor.detach().contiguous().numpy()
                if tensor.dim() == 1 or name.startswith("position"):
                    writer.add_tensor(name, numbers)
                    continue
                own = gguf.GGMLQuantizationType.Q8_0 if name.startswith("token_embd") else form
                writer.add_tensor(name, gguf.quants.quantize(numbers, own), raw_dtype=own)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()

        return write

    for kind, form in (("q8_0", gguf.GGMLQuantizationType.Q8_0), ("q4_0", gguf.GGMLQuantizationType.Q4_0)):
        gguf_export._write_tensors = quantized(form)
        gguf_export.export_gguf(folder / kind, model, tokenizer)
    gguf_export._write_tensors = plain
    if importlib.util.find_spec("ctranslate2"):
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(folder / "hf")).convert(str(folder / "ctranslate2"), quantization="int8")


def serve(name: str, folder: Path, tokens: int, threads: int) -> None:
    """Load an engine; print megabytes of weights and seconds; then, for each line read, its speed and peak memory."""
    from handloom import runtime

    os.dup2(2, 3)  # engines print what they like
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine, kind = name.split()
    importlib.import_module(ENGINES[name])  # not a part of loading
    began = time.perf_counter()
    megabytes, generate = LOADERS[engine](kind, folder, tokens, threads)
    loading = time.perf_counter() - began
    generate()
    print(megabytes, loading, file=answers, flush=True)
    for _ in sys.stdin:
        print(generate(), runtime.peak_memory_bytes() / 1e6, file=answers, flush=True)


def load_handloom(kind: str, folder: Path, tokens: int, threads: int) -> tuple[float, Callable[[], float]]:
    """Through `handloom.load` and the engine that every command uses."""
    import handloom
    from handloom import runtime
    from handloom.inference.engine import Engine
    from handloom.inference.generation_config import GenerationConfig

    runtime.set_num_threads(threads)
    model = handloom.load(folder / "hf", print, precision=kind).model
    weights = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}

    def generate() -> float:
        engine = Engine(model)
        engine.add(PROMPT, GenerationConfig(max_new_tokens=tokens, temperature=0))
        engine.step()
        began = time.perf_counter()
        assert sum(len(engine.step()) for _ in range(tokens - 1)) == tokens - 1
        return (tokens - 1) / (time.perf_counter() - began)

    return sum(weights.values()) / 1e6, generate


def load_transformers(kind: str, folder: Path, tokens: int, threads: int) -> tuple[float, Callable[[], float]]:
    """`generate`; the time of the prompt, measured alone, is taken off."""
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(threads)
    model = GPT2LMHeadModel.from_pretrained(folder / "hf").eval()
    prompt = torch.tensor([PROMPT])

    def seconds(count: int) -> float:
        began = time.perf_counter()
        length = len(PROMPT) + count
        model.generate(prompt, max_length=length, min_length=length, do_sample=False, pad_token_id=50256)
        return time.perf_counter() - began

    def generate() -> float:
        first = seconds(1)
        return (tokens - 1) / (seconds(tokens) - first)

    return 497.8, generate


def load_llama(kind: str, folder: Path, tokens: int, threads: int) -> tuple[float, Callable[[], float]]:
    """xllamacpp as it is when nobody says how, over loopback; the speed is its own report."""
    import json
    import urllib.request

    import xllamacpp

    file = next((folder / kind).glob("*.gguf"))
    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.port, p.verbosity, p.n_gpu_layers = str(file), 1024, 1, 0, -1, 0
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(p)
    body = {"prompt": PROMPT, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}

    def generate() -> float:
        request = urllib.request.Request(
            f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            found = json.load(answer)
        assert found["tokens_predicted"] == tokens
        return float(found["timings"]["predicted_per_second"])

    return file.stat().st_size / 1e6, generate


def load_ctranslate2(kind: str, folder: Path, tokens: int, threads: int) -> tuple[float, Callable[[], float]]:
    """`generate_batch`; the time of the prompt, measured alone, is taken off."""
    import ctranslate2

    generator = ctranslate2.Generator(str(folder / "ctranslate2"), intra_threads=threads, compute_type=kind)
    vocabulary = (folder / "hf" / "vocab.json").read_text("utf-8")
    import json

    names = {number: name for name, number in json.loads(vocabulary).items()}
    prompt = [names[token] for token in PROMPT]

    def seconds(count: int) -> float:
        began = time.perf_counter()
        generator.generate_batch(
            [prompt], max_length=count, min_length=count, sampling_topk=1, include_prompt_in_result=False
        )
        return time.perf_counter() - began

    def generate() -> float:
        first = seconds(1)
        return (tokens - 1) / (seconds(tokens) - first)

    return (folder / "ctranslate2" / "model.bin").stat().st_size / 1e6, generate


LOADERS = {
    "handloom": load_handloom,
    "transformers": load_transformers,
    "llama.cpp": load_llama,
    "ctranslate2": load_ctranslate2,
}


if __name__ == "__main__":
    main()
