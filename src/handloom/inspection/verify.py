"""Is this model computed as it should be? A list of checks, each against another way to the same numbers.

Offline: the reference for the whole model is transformers, where it is installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from handloom.checkpoints import gpt2
from handloom.checkpoints.gpt2_export import export_folder
from handloom.inference.engine import Request, continuations
from handloom.inference.sampling import Sampling
from handloom.inference.text import LanguageModel
from handloom.inspection import numerics
from handloom.model.gpt import GPT
from handloom.model.kv_cache import KVCache
from handloom.tokenizer.gpt2 import TiktokenTokenizer

TOLERANCE = 1e-4
"""The largest difference allowed, as a share of the largest number there is (or of 1)."""

_TEXTS = (
    "It's naïve: 123 4567!\n\n\tx  ",
    "Ελλάδα 日本語 😀👩‍👩‍👧 \u00a0 café\r\n",
    "<|endoftext|> is ordinary text",
    " ",
)


@dataclass(frozen=True)
class Check:
    """What one check came to."""

    name: str
    passed: bool | None
    """None: not checked."""
    detail: str


def verify(lm: LanguageModel) -> Iterator[Check]:
    """Run every check on a model, one after another.

    Yields:
        each result as soon as it is there.
    """
    with torch.inference_mode():
        yield _tokenizer(lm)
        model, context = lm.model, lm.config.context
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(lm.tokenizer.vocab_size, (2, min(64, context)), generator=generator)  # (B, T)
        plain = model(ids)  # (B, T, V)
        yield _causality(model, ids, plain)
        yield _fused(model, ids, plain)
        yield _cached(model, ids, plain)
        yield _compare("batch = single", model(ids[1:]), plain[1:])
        long = torch.randint(lm.tokenizer.vocab_size, (1, context), generator=generator)  # (1, T)
        yield _overflow(lm, long)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "exported"
        export_folder(folder, model, lm.tokenizer)
        yield _round_trip(model, folder)
        yield _transformers(model, folder, ids)
    yield Check("golden values", None, "no published values are kept here, so real weights have none to meet")


def _tokenizer(lm: LanguageModel) -> Check:
    name = "tokenizer = tiktoken"
    if not isinstance(lm.tokenizer, TiktokenTokenizer):
        return Check(name, None, "this model is used without tiktoken")
    for text in _TEXTS:
        ids = lm.tokenizer.encode(text)
        if ids != lm.tokenizer.by_hand.encode(text) or lm.tokenizer.decode(ids) != text:
            return Check(name, False, f"{text!r} has other ids, or does not come back from them")
    return Check(name, True, f"{len(_TEXTS)} texts have the same ids and come back from them")


def _causality(model: GPT, ids: Tensor, plain: Tensor) -> Check:
    middle = max(1, ids.shape[1] // 2)
    changed = ids.clone()
    changed[:, middle:] = (changed[:, middle:] + 1) % model.config.vocab_size
    return _compare("causality", model(changed)[:, :middle], plain[:, :middle])


def _fused(model: GPT, ids: Tensor, plain: Tensor) -> Check:
    model.use_fused_attention(False)
    explicit = model(ids)
    model.use_fused_attention(None)
    return _compare("fused = explicit", plain, explicit)


def _cached(model: GPT, ids: Tensor, plain: Tensor) -> Check:
    cache = KVCache(model.config, len(ids))
    first = max(1, ids.shape[1] // 2)
    pieces = [ids[:, :first], *ids[:, first:].split(1, dim=1)]
    return _compare("cached = uncached", torch.cat([model(piece, cache) for piece in pieces], dim=1), plain)


def _overflow(lm: LanguageModel, long: Tensor) -> Check:
    """The second token after a full context comes from the context's last half alone."""
    request = Request(max_new_tokens=2, sampling=Sampling(temperature=0), overflow="slide")
    vocabulary, context = lm.tokenizer.vocab_size, lm.config.context
    found = [int(token) for token in continuations(lm.model, long, request, vocabulary)]
    text, expected = long, []
    for read in (context, max(1, context // 2)):
        hidden = lm.model.hidden(text[:, -read:])[:, -1]  # (1, C)
        token = lm.model.unembed(hidden)[:, :vocabulary].argmax(dim=-1)  # (1)
        expected.append(int(token))
        text = torch.cat([text, token[:, None]], dim=1)
    return Check("decode after overflow", found == expected, f"tokens {found}, recomputed {expected}")


def _round_trip(model: GPT, folder: Path) -> Check:
    again, mine = gpt2.open_folder(folder).load_model().state_dict(), model.state_dict()
    differing = [name for name in mine if not again[name].equal(mine[name])]
    detail = f"{differing[0]} differs" if differing else f"{len(mine)} tensors are the same to the bit"
    return Check("export and import", not differing, detail)


def _transformers(model: GPT, folder: Path, ids: Tensor) -> Check:
    name = "ours = transformers"
    if not numerics.has_reference():
        return Check(name, None, "transformers is not installed")
    theirs = numerics.reference_activations(numerics.reference(folder), ids)
    differences = numerics.compare(numerics.activations(model, ids), theirs)
    first = numerics.first_difference(differences, TOLERANCE)
    if first is not None:
        place = f"batch and position {first.where}"
        return Check(name, False, f"first differs: {first.name}, by {first.worst:.1e} at {place}")
    worst = max(difference.worst for difference in differences if difference.name == "logits")
    return Check(
        name, True, f"{len(differences)} activations are the same; worst score differs by {worst:.1e}"
    )


def _compare(name: str, found: Tensor, expected: Tensor) -> Check:
    (difference,) = numerics.compare({name: found}, {name: expected})
    return Check(
        name,
        not difference.exceeds(TOLERANCE),
        f"worst score differs by {difference.worst:.1e} of {difference.scale:.1f}",
    )
