"""Ours against a reference, activation by activation, so that the first one that differs can be named.

The only place that imports transformers, and only when its model is asked for. Knows no files of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handloom.model.attention import Attention, attention_weights
from handloom.model.gpt import GPT


@dataclass(frozen=True)
class Difference:
    """How far one activation of ours is from the reference's."""

    name: str
    """For example `blocks.3.attention`, or `logits`."""
    worst: float
    """The largest |ours - theirs|."""
    where: tuple[int, ...]
    """The place of that element: batch and token first, or batch, head, query and key in attention weights."""
    ours: float
    theirs: float
    scale: float
    """The largest |theirs|."""

    def exceeds(self, tolerance: float) -> bool:
        """Whether `worst` is more than that share of the scale, or of 1 where the scale is smaller. NaN always is."""
        return not self.worst <= tolerance * max(1.0, self.scale)


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[Difference]:
    """Hold activations of the same names against each other, in the order a token meets them.

    Args:
        ours: from `activations`.
        theirs: from `reference_activations`, or from another model of ours. What only one side has is left out.
    """
    return [_difference(name, ours[name], theirs[name]) for name in ours if name in theirs]


def first_difference(differences: Iterable[Difference], tolerance: float = 1e-5) -> Difference | None:
    """The first that exceeds the tolerance; what comes after it is its consequence."""
    return next((difference for difference in differences if difference.exceeds(tolerance)), None)


@torch.no_grad()
def activations(model: GPT, tokens: Tensor) -> dict[str, Tensor]:
    """What each part of our model puts out for `tokens` (B, T), by the name of the part, in order.

    `blocks.N.attention.weights` (B, H, T, T) are spelled out even when the fused kernel is in use.
    """
    found: dict[str, Tensor] = {}
    taps: list[tuple[nn.Module, Callable[[Any], None]]] = [
        (model.embedding, _keep(found, "embedding")),
        (model.final_norm, _keep(found, "final_norm")),
    ]
    for i, block in enumerate(model.blocks):
        assert isinstance(block.attention, Attention)
        taps += [
            (block.attention.qkv, _keep_weights(found, f"blocks.{i}.attention.weights", block.attention)),
            *((getattr(block, part), _keep(found, f"blocks.{i}.{part}")) for part in _PARTS),
            (block, _keep(found, f"blocks.{i}")),
        ]
    with _tapped(taps):
        found["logits"] = model(tokens)
    return found


@torch.no_grad()
def reference_activations(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """The same of a GPT2LMHeadModel of transformers, under our names.

    Attention weights are there if it was loaded with `attn_implementation="eager"`.
    """
    found: dict[str, Tensor] = {}
    inner: Any = model.transformer
    taps: list[tuple[nn.Module, Callable[[Any], None]]] = [
        (inner.drop, _keep(found, "embedding")),
        (inner.ln_f, _keep(found, "final_norm")),
    ]
    for i, block in enumerate(inner.h):
        parts = (getattr(block, part) for part in _PARTS.values())
        taps += [
            (block.attn, _keep(found, f"blocks.{i}.attention.weights", 1)),
            *((part, _keep(found, f"blocks.{i}.{ours}")) for ours, part in zip(_PARTS, parts, strict=True)),
            (block, _keep(found, f"blocks.{i}")),
        ]
    with _tapped(taps):
        found["logits"] = model(tokens).logits
    return found


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one type and shape are the same to the bit: -0.0 is not 0.0, and a NaN is itself."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(one.view(whole[one.element_size()]).equal(other.view(whole[other.element_size()])))


def has_reference() -> bool:
    """Whether transformers is installed."""
    return find_spec("transformers") is not None


def reference(folder: Path) -> nn.Module:
    """transformers' own model of a Hugging Face folder, in float32, with spelled-out attention."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # it reports which tensors of older files it has no use for
    model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True
    )
    return model.eval()


_PARTS = {"attention_norm": "ln_1", "attention": "attn", "feedforward_norm": "ln_2", "feedforward": "mlp"}


def _keep(found: dict[str, Tensor], name: str, element: int = 0) -> Callable[[Any], None]:
    """Remember a module's output, or that element of it if it has several."""

    def keep(output: Any) -> None:
        value = output if isinstance(output, Tensor) else output[element]
        if value is not None:
            found[name] = value

    return keep


def _keep_weights(found: dict[str, Tensor], name: str, attention: Attention) -> Callable[[Any], None]:
    def keep(qkv: Tensor) -> None:
        B, T, _ = qkv.shape
        q, k, _ = qkv.view(B, T, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        found[name] = attention_weights(q, k, attention.core.scale)  # (B, H, T, T)

    return keep


@contextmanager
def _tapped(taps: Iterable[tuple[nn.Module, Callable[[Any], None]]]) -> Iterator[None]:
    """Call each function with its module's output, while the block lasts."""
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, keep=keep: keep(output)) for module, keep in taps
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _difference(name: str, ours: Tensor, theirs: Tensor) -> Difference:
    distance = (ours - theirs).abs()
    distance = torch.where(distance.isnan(), torch.inf, distance)  # a NaN is the worst of all
    at = tuple(int(i) for i in torch.unravel_index(distance.argmax(), distance.shape))
    return Difference(name, distance[at].item(), at, ours[at].item(), theirs[at].item(), theirs.abs().max().item())
