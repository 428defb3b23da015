"""The work that is measured: writing, reading, many texts together. Training is in `training_workloads`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handloom.bench.kinds import Batch, BenchSettings, Decode, Prefill
from handloom.bench.models import weight_bytes
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.summary import model_summary

REFERENCE_TOKENS = 128
"""Tokens that the agreement with fp32 is taken over, at most."""


@dataclass
class Round:
    """What one round did, and how long each of its parts took: a token, a prompt, a step."""

    tokens: int = 0
    seconds: float = 0.0
    each: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Workload:
    """Something to measure, ready to run."""

    once: Callable[[Round], None]
    """Do the work once and add it to the round."""
    agreement: Callable[[Path, bool], dict[str, float] | None]
    """(file, whether this is fp32, which writes the file) -> the differences from fp32."""
    facts: dict[str, Any]
    """`bytes_per_token` or `operations_per_token`: what the limit is divided by."""

    surrounding: AbstractContextManager[Any] = field(default_factory=nullcontext)
    """What all rounds happen in."""

    def round(self, least_seconds: float) -> Round:
        """The work, again and again until it took that long."""
        done = Round()
        while not done.tokens or done.seconds < least_seconds:
            self.once(done)
        return done


def decode(settings: BenchSettings, model: GPT) -> Workload:
    """Tokens of one text, one at a time."""
    assert isinstance(settings, Decode)
    config = GenerationConfig(max_new_tokens=settings.new_tokens, temperature=0)
    prompt = prompt_of(model.config, settings.prompt_tokens)

    def once(done: Round) -> None:
        engine = Engine(model)
        engine.add(prompt, config)
        engine.step()
        _timed_steps(engine, done)

    return Workload(once, _agreement_of(model, prompt), {"bytes_per_token": weight_bytes(model)})


def prefill(settings: BenchSettings, model: GPT) -> Workload:
    """A prompt."""
    assert isinstance(settings, Prefill)
    prompt = prompt_of(model.config, settings.prompt_tokens)
    tokens = torch.tensor([prompt])

    @torch.inference_mode()
    def once(done: Round) -> None:
        cache, began = model.new_cache(1, len(prompt)), time.perf_counter()
        model.next_logits(tokens, cache)
        _add(done, len(prompt), time.perf_counter() - began)

    return Workload(once, _agreement_of(model, prompt), {"operations_per_token": operations(model.config, len(prompt))})


def batch(settings: BenchSettings, model: GPT) -> Workload:
    """Several texts, each with a prompt of its own."""
    assert isinstance(settings, Batch)
    config = GenerationConfig(max_new_tokens=settings.new_tokens, temperature=0)
    prompts = [
        prompt_of(model.config, settings.prompt_tokens, first=1000 + 100 * row) for row in range(settings.streams)
    ]

    def once(done: Round) -> None:
        engine = Engine(model)
        for prompt in prompts:
            engine.add(prompt, config)
        _timed_steps(engine, done)

    length = settings.prompt_tokens + settings.new_tokens
    return Workload(once, _agreement_of(model, prompts[0]), {"operations_per_token": operations(model.config, length)})


def prompt_of(config: GPTConfig, tokens: int, first: int = 1000) -> list[int]:
    """Ids in a row."""
    return [(first + place) % config.vocab_size for place in range(tokens)]


def operations(config: GPTConfig, length: int, *, logits: bool = False) -> float:
    """Floating-point operations of a token, forward, in a text of that length; `logits` of each or of the last."""
    parts = model_summary(config, position=length // 2)
    head = sum(part.flops for part in parts if part.name.startswith("head"))
    return sum(part.flops for part in parts) - (0 if logits else head * (1 - 1 / length))


def _timed_steps(engine: Engine, done: Round) -> None:
    while engine.busy:
        began = time.perf_counter()
        events = engine.step()
        _add(done, len(events), time.perf_counter() - began)


def _add(done: Round, tokens: int, seconds: float) -> None:
    done.tokens += tokens
    done.seconds += seconds
    done.each.append(seconds)


def _agreement_of(model: GPT, prompt: list[int]) -> Callable[[Path, bool], dict[str, float] | None]:
    @torch.inference_mode()
    def agreement(file: Path, is_reference: bool) -> dict[str, float] | None:
        if is_reference:
            room = min(REFERENCE_TOKENS, model.config.context_length - 1)
            engine = Engine(model)
            engine.add(prompt[:room], GenerationConfig(max_new_tokens=room, temperature=0, overflow="slide"))
            written = [event.token for event in engine.run() if event.token is not None]
            tokens = torch.tensor([(prompt[:room] + written)[-room:]])  # (1, T)
            torch.save({"tokens": tokens, "logprobs": _logprobs(model, tokens)}, file)
            return None
        reference = torch.load(file, weights_only=True)
        return compare(reference["logprobs"], _logprobs(model, reference["tokens"]))

    return agreement


def _logprobs(model: GPT, tokens: Tensor) -> Tensor:
    """(1, T) -> (T, V): the log-probabilities of every token after each position."""
    return model(tokens)[0].float().log_softmax(dim=-1)


def compare(reference: Tensor, other: Tensor) -> dict[str, float]:
    """Two tables of log-probabilities (T, V): how often the likeliest token is the same one, and how much the
    log-probability of the reference's likeliest token differs, in nats.

    `relative_perplexity` is by how much the perplexity grows, if texts are distributed as the reference has it: the
    exponential of the mean Kullback-Leibler divergence, less 1. It is above 0, and no text has to be at hand.
    """
    best = reference.argmax(dim=-1)  # (T)
    differences = (other - reference).gather(1, best[:, None]).abs()  # (T, 1)
    divergence = (reference.exp() * (reference - other)).sum(dim=-1)  # (T)
    return {
        "same_token": float((other.argmax(dim=-1) == best).double().mean()),
        "relative_perplexity": float(divergence.mean().exp() - 1),
        "mean_logprob_difference": float(differences.mean()),
        "largest_logprob_difference": float(differences.max()),
    }
