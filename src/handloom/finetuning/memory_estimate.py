"""What each way to tune a model would train and need, before the first step.

Computed on the meta device, so that it costs nothing. Knows no files, no optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from handloom.finetuning import lora, trainable
from handloom.finetuning.trainable import Cost
from handloom.model import surgery
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.loss import CHUNK_TOKENS

LISTED_METHODS = ("full", "lora", "norms", "norms+head", "head", "bias", "last:2")
"""The methods that an estimate lists next to the one that was chosen."""

RUNTIME_BYTES = 360_000_000
"""What Python, torch and this program take before there is a model; fitted, as the next."""

ALLOCATOR_OVERHEAD = 1.6
"""Allocator overhead: resident bytes per byte of saved activations (fragmentation).

Both were fitted to nine measurements at 124M (`docs/LOG.md`), which they meet within a tenth.
"""


@dataclass(frozen=True)
class MicroBatch:
    """How much goes through the model at once."""

    rows: int
    tokens: int
    """In a row."""
    bf16: bool
    """Whether matrix products are computed in bfloat16."""


@dataclass(frozen=True)
class MethodEstimate:
    """One way to tune the model."""

    method: str
    cost: Cost
    peak_bytes: int
    """The most memory that the process is expected to hold."""
    chosen: bool
    remark: str = ""


@dataclass(frozen=True)
class MemoryEstimate:
    """All ways, and what learns in the chosen one."""

    entries: tuple[MethodEstimate, ...]
    groups: tuple[tuple[str, int, int], ...]
    """Of the chosen one: what learns, in how many tensors, how many numbers."""

    @property
    def chosen(self) -> MethodEstimate:
        """The way that was chosen."""
        return next(entry for entry in self.entries if entry.chosen)


def estimate_memory(
    config: GPTConfig,
    method: str,
    how: lora.LoRAConfig,
    at_once: MicroBatch,
    train: Sequence[str] = (),
    untie: bool = False,
) -> MemoryEstimate:
    """The estimate for a model.

    Args:
        config: of the model as it is loaded, with the labels that it will have.
        method: the chosen one.
        how: settings of LoRA, for `lora`.
        at_once: how much goes through it at once.
        train: patterns that were given instead of a method.
        untie: whether a tied head gets weights of its own.
    """
    own = " ".join(train) if train else method
    methods = list(LISTED_METHODS if config.layers >= 2 else LISTED_METHODS[:-1])
    if own not in methods:
        methods.insert(0, own)
    entries: list[MethodEstimate] = []
    chosen_groups: tuple[tuple[str, int, int], ...] = ()
    for name in methods:
        model = _outline(config, how if name == "lora" else None, untie)
        trainable.set_trainable(model, train if train and name == own else trainable.patterns_of(name, model.config))
        entries.append(
            MethodEstimate(
                name, trainable.cost(model), peak_bytes(model, at_once), chosen=name == own, remark=_remark(model)
            )
        )
        if name == own:
            chosen_groups = tuple(trainable.groups(model))
    return MemoryEstimate(tuple(entries), chosen_groups)


def peak_bytes(model: GPT, at_once: MicroBatch) -> int:
    """The most memory a process is expected to hold while it trains what learns in the model.

    Weights, gradients, AdamW's two numbers; what the blocks from the lowest that learns upward save for
    backward; and the scores of a few hundred tokens in the loss.
    """
    c = model.config
    cost, low = trainable.cost(model), trainable.first_trainable_layer(model)
    trained_blocks = c.layers - (low or 0)
    has_adapter = bool(lora.adapters(model))
    matrices = c.layers * (4 * c.embed_dim * c.embed_dim + 2 * c.embed_dim * c.feedforward_dim)
    weights = 4 * sum(p.numel() for p in model.parameters())
    if has_adapter and at_once.bf16:
        weights -= 2 * matrices  # the frozen ones are kept in bfloat16
    elif at_once.bf16:
        weights += 2 * matrices * trained_blocks // c.layers  # bfloat16 copies, for the way back
    tokens, size = at_once.rows * at_once.tokens, 2 if at_once.bf16 else 4
    # Each norm keeps its input, in float32. Then q, k, v, what attention says, and the inner channels before the
    # activation; where a matrix or an update learns, also what it reads.
    reads = {"attention.qkv": c.embed_dim, "feedforward.up": c.embed_dim, "feedforward.down": c.feedforward_dim}
    kept = 4 * c.embed_dim + c.feedforward_dim
    kept += sum(width for part, width in reads.items() if _learns(model, part))
    block = tokens * (8 * c.embed_dim + size * kept)
    if at_once.bf16 and at_once.tokens <= 256:  # attention spelled out: its weights are kept, in both precisions
        block += tokens * at_once.tokens * c.heads * 6
    activations = ALLOCATOR_OVERHEAD * (trained_blocks * block + 16 * tokens * c.embed_dim)
    loss = min(CHUNK_TOKENS, tokens) * c.vocab_size * (8 + size)
    loss += 2 * c.vocab_size * c.embed_dim if at_once.bf16 else 0
    head = model.lm_head
    if head.weight.requires_grad and getattr(head, "trainable_tokens", None) is None:
        loss += 4 * c.vocab_size * c.embed_dim  # its gradient from the loss, before it is added to that from below
    return RUNTIME_BYTES + weights + cost.gradient_bytes + cost.optimizer_bytes + round(activations) + loss


def _learns(model: GPT, part: str) -> bool:
    """Whether a matrix of the blocks learns, or a LoRA update of it does."""
    return any(
        p.requires_grad and p.ndim == 2 for block in model.blocks for p in block.get_submodule(part).parameters()
    )


def _outline(config: GPTConfig, how: lora.LoRAConfig | None, untie: bool) -> GPT:
    """A model without weights, with an adapter if `how` is given."""
    with torch.device("meta"):
        model = GPT(config)
        if untie:
            surgery.untie_embeddings(model)
        if how is not None:
            layers = [path for path, _ in surgery.linear_layers(model) if lora.named(path, how.target_modules)]
            tokens = torch.zeros(how.trainable_tokens, dtype=torch.int64) if how.trainable_tokens else None
            layers_of = dict.fromkeys(layers, (how.r, how.scale))
            lora.insert_adapter(model, layers_of, "adapter", use_dora=how.use_dora, tokens=tokens)
    return model


def _remark(model: GPT) -> str:
    """What a person may not expect of this choice."""
    embedding = dict(model.named_parameters()).get(trainable.TIED)
    if embedding is None or not embedding.requires_grad or not model.config.tie_embeddings:
        return ""
    everything = sum(p.numel() for p in model.parameters())
    if everything == sum(p.numel() for p in model.parameters() if p.requires_grad):
        return ""
    return f"trains the token embedding too: the head is tied to it ({embedding.numel() / everything:.0%} of the model)"
