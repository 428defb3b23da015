"""What each finetuning method would train and need, computed before the first step from a model without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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


KEPT_MEMORY = 1.06
"""What the process holds more where freed memory is kept (`runtime.keeping_freed_memory`): 3 to 12 % at 124M."""


@dataclass(frozen=True)
class MicroBatch:
    """How much goes through the model at once."""

    rows: int
    tokens: int
    """In a row."""
    bf16: bool
    """Whether matrix products are computed in bfloat16."""
    kept: bool = False
    """Whether the memory of tensors that were freed is kept."""
    checkpointing: bool = False
    """Whether blocks keep their input alone (gradient checkpointing)."""


@dataclass(frozen=True)
class MethodEstimate:
    """One method."""

    method: str
    cost: Cost
    peak_bytes: int
    """The most memory that the process is expected to hold."""
    chosen: bool
    remark: str = ""


@dataclass(frozen=True)
class MemoryEstimate:
    """All methods, and what learns with the chosen one."""

    entries: tuple[MethodEstimate, ...]
    groups: tuple[tuple[str, int, int], ...]
    """Of the chosen one: what learns, in how many tensors, how many numbers."""

    @property
    def chosen(self) -> MethodEstimate:
        """The method that was chosen."""
        return next(entry for entry in self.entries if entry.chosen)


def estimate_memory(
    config: GPTConfig,
    method: str,
    how: lora.LoRAConfig,
    at_once: MicroBatch,
    train: Sequence[str] = (),
    untie: bool = False,
) -> MemoryEstimate:
    """The estimate for a model of that shape, with the labels that it will have.

    `method` is the chosen one, `train` patterns that were given instead; `how` is for `lora`; `untie`: whether a tied
    head gets weights of its own.
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
        peak, chosen = peak_bytes(model, at_once), name == own
        entries.append(MethodEstimate(name, trainable.cost(model), peak, chosen, remark=_remark(model)))
        if chosen:
            chosen_groups = tuple(trainable.groups(model))
    return MemoryEstimate(tuple(entries), chosen_groups)


def peak_bytes(model: GPT, at_once: MicroBatch) -> int:
    """The most memory a process is expected to hold while it trains what learns in the model.

    Weights, gradients, AdamW's two numbers; what the blocks from the lowest that learns upward save for
    backward; and the scores of a few hundred tokens in the loss.
    """
    cost, low = trainable.cost(model), trainable.first_trainable_layer(model) or 0
    head: Any = model.lm_head
    vocab_size, embed_dim = head.weight.shape
    layers: list[tuple[str, Any]] = list(surgery.linear_layers(model))
    sizes = [(path, layer.in_features * layer.out_features) for path, layer in layers]
    weights = 4 * sum(p.numel() for p in model.parameters())
    if lora.adapters(model) and at_once.bf16:
        weights -= 2 * sum(size for _, size in sizes)  # the frozen ones are kept in bfloat16
    elif at_once.bf16:  # bfloat16 copies, for the way back
        weights += 2 * sum(size for path, size in sizes if int(path.split(".")[1]) >= low)
    tokens = at_once.rows * at_once.tokens
    saved = [_saved_by(block, at_once) for block in model.blocks[low:]]
    blocks = 4 * embed_dim * len(saved) + max(saved, default=0) if at_once.checkpointing else sum(saved)
    activations = ALLOCATOR_OVERHEAD * (tokens * (blocks + 16 * embed_dim))
    loss = min(CHUNK_TOKENS, tokens) * vocab_size * (10 if at_once.bf16 else 12)
    loss += 2 * vocab_size * embed_dim if at_once.bf16 else 0
    if head.weight.requires_grad and getattr(head, "trainable_tokens", None) is None:
        loss += 4 * vocab_size * embed_dim  # its gradient from the loss, before it is added to that from below
    total = RUNTIME_BYTES + weights + cost.gradient_bytes + cost.optimizer_bytes + round(activations) + loss
    return round(total * KEPT_MEMORY) if at_once.kept else total


def _saved_by(block: Any, at_once: MicroBatch) -> int:
    """Bytes that a block saves of each token for backward.

    The inputs of the norms, in float32. Then q, k, v, what attention gives, and the inner channels before the
    activation; where a matrix or a LoRA update of it learns, also what it reads.
    """
    qkv, out, up, down = block.attention.qkv, block.attention.out, block.feedforward.up, block.feedforward.down
    saved = 4 * sum(norm.normalized_shape[0] for norm in block.modules() if isinstance(norm, nn.LayerNorm))
    channels = qkv.out_features + out.in_features + up.out_features
    for layer in (qkv, up, down):
        if any(p.requires_grad and p.ndim == 2 for p in layer.parameters()):
            channels += layer.in_features
    saved += (2 if at_once.bf16 else 4) * channels
    if at_once.bf16 and at_once.tokens <= 256:  # attention spelled out: its weights are kept, in both precisions
        saved += at_once.tokens * block.attention.heads * 6
    return saved


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
