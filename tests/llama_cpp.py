"""llama.cpp itself, with a GGUF file loaded, in this process: asked over loopback, as its own programs are."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import torch
import xllamacpp
from torch import Tensor

from decoding import generated
from handloom.inference.generation_config import GenerationConfig
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Llama:
    """One loaded file.

    Args:
        file: the GGUF file.
        context: tokens.
        as_started: whether it computes as it does when nobody says how, with keys and values in half precision
            and its own fused attention; otherwise as exactly as it can.
    """

    def __init__(self, file: Path, context_length: int, as_started: bool = False) -> None:
        p = xllamacpp.CommonParams()
        p.model.path = str(file)
        p.n_ctx, p.n_parallel, p.port, p.verbosity, p.warmup = context_length, 1, 0, -1, False
        p.n_gpu_layers = 0
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = p.n_threads_http = 1
        if not as_started:
            p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(p)
        self._address = self._server.listening_address

    def close(self) -> None:
        del self._server

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text; with `special`, the name of a special token stands for it."""
        return self._ask("/tokenize", content=text, parse_special=special)["tokens"]

    def decode(self, ids: list[int]) -> str:
        return self._ask("/detokenize", tokens=ids)["content"]

    def continued(self, prompt: list[int] | str, length: int, **settings: Any) -> list[int]:
        """Greedily."""
        return self._complete(prompt, length, **settings)["tokens"]

    def scores(self, prompt: list[int], chosen: list[int], count: int) -> list[dict[int, float]]:
        """Log probabilities of the `count` likeliest ids before each token of `chosen`.

        It is asked once for each place, and made to choose a letter (which changes no probability): where a
        character is not complete yet, it tells none.
        """
        (letter,) = self.encode("x")
        places = []
        for place in range(len(chosen)):
            found = self._complete(prompt + chosen[:place], 1, n_probs=count, logit_bias=[[letter, 1e6]])
            (probabilities,) = found["completion_probabilities"]
            places.append({top["id"]: top["logprob"] for top in probabilities["top_logprobs"]})
        return places

    def _complete(self, prompt: list[int] | str, length: int, **settings: Any) -> dict[str, Any]:
        return self._ask("/completion", prompt=prompt, n_predict=length, temperature=0, return_tokens=True, **settings)

    def _ask(self, path: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            self._address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with _OPENER.open(request) as answer:
            return json.load(answer)


def random_model(config: GPTConfig, seed: int, deviation: float = 0.3) -> GPT:
    """A model whose every weight is random, biases and LayerNorms too, and whose scores are far apart."""
    model = GPT(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, deviation, generator=generator)
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    return model


def greedy(model: GPT, prompt: list[int], length: int, vocabulary: int) -> tuple[list[int], Tensor]:
    """Our greedy text of `length` ids, and (length, V) the log probabilities that it was chosen by."""
    (chosen,) = generated(
        model, [prompt], GenerationConfig(max_new_tokens=length, temperature=0, vocab_size=vocabulary)
    )
    with torch.no_grad():
        scores = model(torch.tensor([prompt + chosen[:-1]]))[0, len(prompt) - 1 :, :vocabulary]  # (length, V)
    return chosen, scores.log_softmax(dim=-1)


def worst_difference(places: list[dict[int, float]], logprobs: Tensor) -> float:
    """Between llama.cpp's log probabilities and ours (T, V)."""
    return max(
        abs(found - logprobs[place, token].item()) for place, top in enumerate(places) for token, found in top.items()
    )


def narrowest_choice(logprobs: Tensor) -> float:
    """By how much the likeliest id is ahead of the next, where it is least so. Logprobs (T, V)."""
    best = logprobs.topk(2).values  # (T, 2)
    return (best[:, 0] - best[:, 1]).min().item()
