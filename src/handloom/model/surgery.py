"""Edits of a built model: what replaces its layers and changes its parts. The model never edits itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from handloom.model.attention import Attention
from handloom.model.embedding import TiedHead
from handloom.model.gpt import GPT


def linear_layers(model: GPT) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers of the blocks by path, each once, and whatever has replaced one.

    A module with `in_features` is such a layer, with all that is inside it.
    """
    yield from _linear_layers(model.blocks, "blocks")


def _linear_layers(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if hasattr(module, "in_features"):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _linear_layers(child, f"{path}.{name}")


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at `path`, as `named_modules` writes it."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def untie_embeddings(model: GPT) -> None:
    """Give a tied head its own copy of the token embedding; the logits stay what they are."""
    if not isinstance(model.lm_head, TiedHead):
        return
    weight = model.lm_head.weight  # (V, C)
    model.config = dataclasses.replace(model.config, tie_embeddings=False)
    with torch.device("meta"):
        model.lm_head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.lm_head.weight = nn.Parameter(weight.detach().clone())


def add_classification_head(model: GPT, label_names: tuple[str, ...], seed: int) -> None:
    """Give the model a new head for these labels, drawn as its matrices are."""
    model.config = dataclasses.replace(model.config, label_names=label_names)
    head = nn.Linear(model.config.embed_dim, len(label_names), bias=False)
    nn.init.normal_(head.weight, 0.0, 0.02, torch.Generator().manual_seed(seed))
    model.classifier = head.to(model.device)


def set_dropout(model: GPT, probability: float) -> None:
    """Drop activations with that probability while training, at every place where GPT-2 does."""
    model.config = dataclasses.replace(
        model.config, dropout=probability, embedding_dropout=None, attention_dropout=None, residual_dropout=None
    )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


def set_attention(model: GPT, implementation: Literal["sdpa", "eager"] | None) -> None:
    """Compute attention by PyTorch's kernel, or with the softmax spelled out; None: by whichever is quicker."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.core.implementation = implementation
