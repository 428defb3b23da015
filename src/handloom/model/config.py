"""What a GPT is made of: one frozen dataclass, its presets, its arithmetic. Knows no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

from handloom.errors import ConfigError, did_you_mean
from handloom.settings import Settings, setting, setting_names

ACTIVATIONS = ("gelu_tanh", "gelu", "relu")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
SINGLE_LABEL, MULTI_LABEL, REGRESSION = PROBLEM_TYPES
"""What the scores of labels mean, as transformers names it: one label for each text, any number of them, or values."""


class Dropouts(NamedTuple):
    """The probabilities of dropping an activation, by place."""

    embedding: float
    """Of token plus position, before the first block."""
    attention: float
    """Of how much one token looks at another."""
    residual: float
    """Of what attention and the feed-forward network add to the residual stream."""


_size = partial(setting, at_least=1, below=2**63, remedy="Give a positive whole number.")
_probability = partial(setting, at_least=0, below=1, remedy="Use 0 for no dropout, or for example 0.1.")


@dataclass(frozen=True)
class GPTConfig(Settings):
    """The shape of a GPT-2 style model.

    The defaults are GPT-2's 124M model (Radford et al. 2019, "Language Models are Unsupervised
    Multitask Learners").
    """

    subject: ClassVar[str] = "The model's"

    vocab_size: int = _size(50257, "Token ids, V.")
    context_length: int = _size(1024, "The most positions the model can look at, in tokens.")
    layers: int = _size(12, "Transformer blocks.")
    heads: int = _size(12, "Attention heads in each block, H; must divide embed_dim.")
    embed_dim: int = _size(768, "Channels of the residual stream, C.")
    ffn_dim: int | None = _size(None, "Channels inside the feed-forward network; None: 4 * embed_dim.")
    activation: str = setting(
        "gelu_tanh",
        "Of the feed-forward network: GELU in the tanh form that GPT-2 was trained with, GELU itself, ReLU.",
        choices=ACTIVATIONS,
    )
    scale_attention_weights: bool = setting(True, "Divide attention scores by the square root of the head width.")
    scale_attention_by_inverse_layer: bool = setting(
        False, "Divide the attention scores of block n, counted from 1, by n as well."
    )
    dropout: float = _probability(0.0, "Probability of dropping an activation while training.")
    embedding_dropout: float | None = _probability(None, "The same for the embeddings alone; None: dropout.")
    attention_dropout: float | None = _probability(None, "The same for the attention weights alone; None: dropout.")
    residual_dropout: float | None = _probability(
        None, "The same for what is added to the residual stream alone; None: dropout."
    )
    norm_eps: float = setting(1e-5, "Added to the variance in every LayerNorm.", above=0, remedy="GPT-2 uses 1e-5.")
    tie_embeddings: bool = setting(True, "Use the token embedding itself as the output head.")
    label_names: tuple[str, ...] = setting(
        (), "What the model tells texts apart by, if it was tuned for that; it then has a second head for them."
    )
    problem_type: str = setting(SINGLE_LABEL, "What the scores of the labels mean.", choices=PROBLEM_TYPES)

    def check_together(self) -> None:
        """Raise ConfigError for a width that the heads cannot share."""
        if self.embed_dim % self.heads:
            near = min(self.heads, self.embed_dim)
            around = (h for step in range(1000) for h in (near - step, near + step) if h > 0)
            best = next((h for h in around if self.embed_dim % h == 0), 1)
            raise ConfigError(
                f"The model's width {self.embed_dim} cannot be shared equally by heads {self.heads}.",
                f"Choose a number of heads that divides the width, for example {best}.",
            )

    @property
    def head_dim(self) -> int:
        """D: channels of one head."""
        return self.embed_dim // self.heads

    @property
    def feedforward_dim(self) -> int:
        """Channels inside the feed-forward network."""
        return self.ffn_dim if self.ffn_dim is not None else 4 * self.embed_dim

    @property
    def dropouts(self) -> Dropouts:
        """How much is dropped where: each place's own probability, or else `dropout`."""
        own = (self.embedding_dropout, self.attention_dropout, self.residual_dropout)
        return Dropouts(*(self.dropout if value is None else value for value in own))

    def attention_scale(self, layer: int) -> float:
        """What the attention scores of a block, counted from 0, are multiplied by: 1 / sqrt(D) by default."""
        scale = 1 / math.sqrt(self.head_dim) if self.scale_attention_weights else 1.0
        return scale / (layer + 1) if self.scale_attention_by_inverse_layer else scale

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GPTConfig:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: for a key that this version does not know, naming the nearest one it does.
        """
        known = setting_names(cls)
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"The model configuration holds the key {key!r}, which this version does not know.",
                    did_you_mean(key, known) or f"It knows: {', '.join(known)}.",
                )
        return cls(**values)


PRESETS: dict[str, GPTConfig] = {
    # The four sizes of GPT-2, and the 16-layer variant of it that this project began with.
    "gpt2": GPTConfig(),
    "gpt2-medium": GPTConfig(layers=24, heads=16, embed_dim=1024),
    "gpt2-large": GPTConfig(layers=36, heads=20, embed_dim=1280),
    "gpt2-xl": GPTConfig(layers=48, heads=25, embed_dim=1600),
    "gpt2-16l": GPTConfig(layers=16),
    # Sizes that learn something on a laptop's processor within minutes or hours.
    "nano": GPTConfig(vocab_size=4096, context_length=128, layers=4, heads=2, embed_dim=128),
    "micro": GPTConfig(vocab_size=4096, context_length=256, layers=4, heads=4, embed_dim=256),
    "mini": GPTConfig(vocab_size=8192, context_length=256, layers=6, heads=6, embed_dim=384),
    "small": GPTConfig(vocab_size=16384, context_length=512, layers=8, heads=8, embed_dim=512),
}


def preset(name: str) -> GPTConfig:
    """The configuration of that name.

    Raises:
        ConfigError: for a name that is none of `PRESETS`.
    """
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS)
        raise ConfigError(
            f"There is no model preset {name!r}.", f"{hint} The presets are: {', '.join(PRESETS)}.".strip()
        )
    return PRESETS[name]
