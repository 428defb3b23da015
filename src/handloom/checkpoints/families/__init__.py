"""Families of models in Hugging Face folders, each as two tables: the keys of its config.json, and its tensor names.

`hf_config` and `hf_folder` walk them, in both directions. Knows no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from handloom.model.config import GPTConfig


@dataclass(frozen=True)
class ConfigKeys:
    """The keys of a family's config.json: every key is honoured, known to have no effect, or refused by name."""

    model_type: str
    causal_lm: str
    """The class that `architectures` names for a language model."""
    classifier: str
    """The class for a classifier."""
    architectures: tuple[str, ...]
    """All classes that are read."""
    identifying: tuple[str, ...]
    """The oldest files name neither type nor class, but these keys."""
    fields: Mapping[str, str]
    """Their key -> our field with the same value. A missing key has our field's default, or that in `defaults`."""
    defaults: Mapping[str, Any]
    activation: str
    """The key of the activation function."""
    activations: Mapping[str, str]
    """Their activation -> ours. The first name of each is the one that is written; the first of all is the default."""
    aliases: Mapping[str, str]
    """Another spelling -> the key that it stands for."""
    same_as: Mapping[str, str]
    """A key that must equal another one, if it is there."""
    only: Mapping[str, tuple[tuple[Any, ...], str]]
    """A key -> the values that are read, and why no others."""
    refused: Mapping[str, str]
    """Keys that must be empty, and why. So must any key that is in none of these tables."""
    overlooked: Mapping[str, str]
    """A key of other families -> the key that counts instead: a note names the difference."""
    no_effect: frozenset[str]
    """Keys whose value, whatever it is, changes no logit."""


@dataclass(frozen=True)
class ParamMap:
    """One tensor under both its names."""

    ours: str
    theirs: str
    transposed: bool = False
    """Whether theirs is the transpose of ours."""


@dataclass(frozen=True)
class TensorNames:
    """The names of a family's tensors."""

    prefix: str
    """Before every name but that of the heads, in the class with a head; the class without leaves it out."""
    block: str
    """Before the names in block {i}."""
    outside: tuple[ParamMap, ...]
    in_block: tuple[ParamMap, ...]
    head: ParamMap
    classifier: ParamMap
    embedding: str
    """Their name of the token embedding, which a tied head equals."""
    not_learned: re.Pattern[str]
    """Tensors that older files store, and which are not parameters."""
    other_heads: re.Pattern[str] = field(repr=False)
    """Heads that are not the language model's."""

    def of(self, config: GPTConfig) -> Iterator[ParamMap]:
        """Every tensor of a model, once."""
        yield from self.outside
        for i in range(config.layers):
            block = self.block.format(i=i)
            for name in self.in_block:
                yield ParamMap(f"blocks.{i}.{name.ours}", block + name.theirs, name.transposed)
        yield from [] if config.tie_embeddings else [self.head]
        yield from [self.classifier] if config.label_names else []

    def linear_layers(self, config: GPTConfig) -> dict[str, str]:
        """Our name of each linear layer inside the blocks -> theirs, without `.weight`."""
        matrices = (name for name in self.of(config) if name.transposed)
        return {name.ours.removesuffix(".weight"): name.theirs.removesuffix(".weight") for name in matrices}


@dataclass(frozen=True)
class Family:
    """Both tables."""

    keys: ConfigKeys
    tensors: TensorNames
