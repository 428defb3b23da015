"""What each engine is told: load a model of GPT-2's 124M shape, then decode, prefill or serve a batch.

Every loader returns an `Engine`: megabytes of its weights, and a function for each kind of work that gives tokens a
second. Nothing is imported before its engine is asked for.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEW_TOKENS = 128
PROMPT = list(range(1000, 1032))
LONG_PROMPT = [1000 + 7 * place % 9000 for place in range(900)]
PROMPTS = [[1000 + 31 * row + place for place in range(32)] for row in range(16)]

MODULES = {
    "handloom": "handloom.loading",
    "transformers": "transformers.models.gpt2.modeling_gpt2",
    "llama.cpp": "xllamacpp",
    "ctranslate2": "ctranslate2",
    "openvino": "openvino_genai",
}
"""Engine: the module that has to be there."""
FORMATS = {
    "handloom": ("fp32", "fp16", "bf16", "int8", "int4"),
    "transformers": ("fp32", "bf16"),
    "llama.cpp": ("f32", "f16", "q8_0", "q4_0"),
    "ctranslate2": ("float32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}


@dataclass(frozen=True)
class Engine:
    """A loaded model, and its work: each function gives tokens a second."""

    megabytes: float
    """Of the weights, which decoding reads once a token."""
    decode: Callable[[], float]
    """128 tokens after a prompt of 32, greedy; those after the first."""
    prefill: Callable[[], float]
    """A prompt of 900 tokens, up to its first new token."""
    batch: Callable[[], float]
    """16 prompts of 32 tokens, 128 new tokens each, together; prompts included in the time, new tokens counted."""


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def from_generate(megabytes: float, generate: Callable[[list[list[int]], int], object]) -> Engine:
    """An engine that has one function, (prompts, new tokens); the time of the prompt alone is taken off in `decode`."""

    def decode() -> float:
        first = seconds_of(lambda: generate([PROMPT], 1))
        return (NEW_TOKENS - 1) / (seconds_of(lambda: generate([PROMPT], NEW_TOKENS)) - first)

    def prefill() -> float:
        return len(LONG_PROMPT) / seconds_of(lambda: generate([LONG_PROMPT], 1))

    def batch() -> float:
        return len(PROMPTS) * NEW_TOKENS / seconds_of(lambda: generate(PROMPTS, NEW_TOKENS))

    return Engine(megabytes, decode, prefill, batch)


def load_handloom(form: str, models: Path, threads: int) -> Engine:
    """Through `handloom.load` and the engine that every command uses."""
    import handloom
    from handloom import runtime
    from handloom.inference.engine import Engine as Decoding
    from handloom.inference.generation_config import GenerationConfig

    runtime.set_num_threads(threads)
    model = handloom.load(models / "hf", print, precision=form).model
    weights = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}

    def generate(prompts: list[list[int]], new_tokens: int) -> None:
        engine = Decoding(model)
        for prompt in prompts:
            engine.add(prompt, GenerationConfig(max_new_tokens=new_tokens, temperature=0))
        assert sum(event.token is not None for event in engine.run()) == len(prompts) * new_tokens

    return from_generate(sum(weights.values()) / 1e6, generate)


def load_transformers(form: str, models: Path, threads: int) -> Engine:
    """`generate`."""
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(threads)
    model = GPT2LMHeadModel.from_pretrained(models / "hf").eval()
    if form == "bf16":
        model = model.to(torch.bfloat16)

    def generate(prompts: list[list[int]], new_tokens: int) -> None:
        length = len(prompts[0]) + new_tokens
        tokens = torch.tensor(prompts)
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_length=length,
            min_length=length,
            do_sample=False,
            pad_token_id=50256,
        )

    return from_generate(sum(one.nbytes for one in model.parameters()) / 1e6, generate)


def load_llama(form: str, models: Path, threads: int) -> Engine:
    """xllamacpp as it is when nobody says how, over loopback; decoding and prefill by its own report."""
    import xllamacpp

    file = next((models / form).glob("*.gguf"))

    def serve(slots: int, context: int) -> Any:
        p = xllamacpp.CommonParams()
        p.model.path, p.n_ctx, p.n_parallel, p.port, p.verbosity, p.n_gpu_layers = str(file), context, slots, 0, -1, 0
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
        return xllamacpp.Server(p)

    one, many = serve(1, 1024), serve(len(PROMPTS), 256 * len(PROMPTS))

    def ask(server: Any, prompt: list[int], new_tokens: int) -> dict[str, float]:
        body = {"prompt": prompt, "n_predict": new_tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        request = urllib.request.Request(
            f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            found = json.load(answer)
        assert found["tokens_predicted"] == new_tokens
        timings: dict[str, float] = found["timings"]
        return timings

    def batch() -> float:
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            together = seconds_of(lambda: list(pool.map(lambda prompt: ask(many, prompt, NEW_TOKENS), PROMPTS)))
        return len(PROMPTS) * NEW_TOKENS / together

    return Engine(
        file.stat().st_size / 1e6,
        lambda: ask(one, PROMPT, NEW_TOKENS)["predicted_per_second"],
        lambda: ask(one, LONG_PROMPT, 1)["prompt_per_second"],
        batch,
    )


def load_ctranslate2(form: str, models: Path, threads: int) -> Engine:
    """`generate_batch`."""
    import ctranslate2

    generator = ctranslate2.Generator(str(models / "ctranslate2"), intra_threads=threads, compute_type=form)
    names = {number: name for name, number in json.loads((models / "hf" / "vocab.json").read_text("utf-8")).items()}

    def generate(prompts: list[list[int]], new_tokens: int) -> None:
        found = generator.generate_batch(
            [[names[token] for token in prompt] for prompt in prompts],
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        assert sum(len(one.sequences_ids[0]) for one in found) == len(prompts) * new_tokens

    return from_generate({"float32": 497.8, "int8": 125.0}[form], generate)


def load_openvino(form: str, models: Path, threads: int) -> Engine:
    """OpenVINO GenAI: `LLMPipeline`, and continuous batching for 16."""
    import numpy as np
    import openvino
    import openvino_genai as genai

    folder = models / ("openvino-int8" if form == "int8" else "openvino")
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "int8": "f32"}[form],
    }
    one = genai.LLMPipeline(str(folder), "CPU", {**options, "ATTENTION_BACKEND": "SDPA"})
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_seqs = 1, len(PROMPTS)
    many = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", options)

    def config(new_tokens: int) -> Any:
        found = genai.GenerationConfig()
        found.max_new_tokens = found.min_new_tokens = new_tokens
        found.ignore_eos, found.do_sample = True, False
        return found

    def generate(prompts: list[list[int]], new_tokens: int) -> None:
        tokens = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        if len(prompts) > 1:
            found = many.generate(tokens, [config(new_tokens)] * len(prompts))
            assert sum(len(answer.m_generation_ids[0]) for answer in found) == len(prompts) * new_tokens
            return
        assert len(one.generate(tokens[0], config(new_tokens)).tokens[0]) == new_tokens

    size = (folder / "openvino_model.bin").stat().st_size / 1e6
    return from_generate(size / 2 if form == "bf16" else size, generate)


LOADERS: dict[str, Callable[[str, Path, int], Engine]] = {
    "handloom": load_handloom,
    "transformers": load_transformers,
    "llama.cpp": load_llama,
    "ctranslate2": load_ctranslate2,
    "openvino": load_openvino,
}
