"""What a GPT is made of: one frozen dataclass, its presets, its arithmetic. Knows no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from handloom.errors import ConfigError, did_you_mean
from handloom.values import plain_fields

ACTIVATIONS = ("gelu_tanh", "gelu", "relu")
"""What may bend the feed-forward network: GELU in the tanh form that GPT-2 was trained with, GELU itself, ReLU."""

SINGLE_LABEL, MULTI_LABEL, REGRESSION = (
    "single_label_classification", "multi_label_classification", "regression",
)  # fmt: skip
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
"""What the scores of labels mean, as transformers names it: one label for each text, any number of them, or values."""


class Dropouts(NamedTuple):
    """The probabilities of dropping an activation, by place."""

    embedding: float
    """Of token plus position, before the first block."""
    attention: float
    """Of how much one token looks at another."""
    residual: float
    """Of what attention and the feed-forward network add to the residual stream."""


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2 style model.

    The defaults are GPT-2's 124M model (Radford et al. 2019, "Language Models are Unsupervised
    Multitask Learners").
    """

    vocab_size: int = 50257
    """V: how many token ids there are."""
    context_length: int = 1024
    """The most positions the model can look at, in tokens."""
    layers: int = 12
    """Transformer blocks."""
    heads: int = 12
    """H: attention heads in each block; must divide `width`."""
    embed_dim: int = 768
    """C: channels of the residual stream."""
    ffn_dim: int | None = None
    """Channels inside the feed-forward network; 4 * width if not given."""
    activation: str = "gelu_tanh"
    """What bends the feed-forward network; one of `ACTIVATIONS`."""
    scale_attention_weights: bool = True
    """Whether attention scores are divided by the square root of the head width."""
    scale_attention_by_inverse_layer: bool = False
    """Whether attention scores of block n, counted from 1, are divided by n as well."""
    dropout: float = 0.0
    """Probability of dropping an activation while training."""
    embedding_dropout: float | None = None
    """The same for the embeddings alone; `dropout` if not given."""
    attention_dropout: float | None = None
    """The same for the attention weights alone; `dropout` if not given."""
    residual_dropout: float | None = None
    """The same for what is added to the residual stream alone; `dropout` if not given."""
    norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    tie_embeddings: bool = True
    """Whether the output head is the token embedding itself."""
    label_names: tuple[str, ...] = ()
    """What the model tells texts apart by, if it was tuned for that; it then has a second head for them."""
    problem_type: str = SINGLE_LABEL
    """What the scores of the labels mean; one of `PROBLEM_TYPES`."""

    def __post_init__(self) -> None:
        plain_fields(self)
        object.__setattr__(self, "label_names", tuple(self.label_names))
        for name in ("vocab_size", "context_length", "layers", "heads", "embed_dim", "ffn_dim"):
            value = getattr(self, name)
            if value is None and name == "ffn_dim":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**63:
                raise ConfigError(
                    f"The model's {name} is {value!r}; it must be a whole number of at least 1 and below 2^63.",
                    f"Set {name} to a positive whole number.",
                )
        if self.embed_dim % self.heads:
            near = min(self.heads, self.embed_dim)
            around = (h for step in range(1000) for h in (near - step, near + step) if h > 0)
            best = next((h for h in around if self.embed_dim % h == 0), 1)
            raise ConfigError(
                f"The model's width {self.embed_dim} cannot be shared equally by heads {self.heads}.",
                f"Choose a number of heads that divides the width, for example {best}.",
            )
        for name, choices in (("activation", ACTIVATIONS), ("problem_type", PROBLEM_TYPES)):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"The model's {name} is {getattr(self, name)!r}, which does not exist.",
                    f"Choose one of: {', '.join(choices)}.",
                )
        for name in ("tie_embeddings", "scale_attention_weights", "scale_attention_by_inverse_layer"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"The model's {name} is {getattr(self, name)!r}; it must be true or false.",
                    f"Set {name} to true or false.",
                )
        for name in ("dropout", "embedding_dropout", "attention_dropout", "residual_dropout"):
            value = getattr(self, name)
            if value is None and name != "dropout":
                continue
            if not _is_number(value) or not 0.0 <= value < 1.0:
                raise ConfigError(
                    f"The model's {name} is {value!r}; it must be at least 0 and below 1.",
                    "Use 0 for no dropout, or for example 0.1.",
                )
        if not _is_number(self.norm_eps) or not 0 < self.norm_eps < math.inf:
            raise ConfigError(f"The model's norm_eps is {self.norm_eps!r}; it must be above 0.", "GPT-2 uses 1e-5.")

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
        """What the attention scores of a block are multiplied by: 1 / sqrt(D), if nothing else is asked for.

        Args:
            layer: which block, counted from 0.
        """
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
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"The model configuration holds the key {key!r}, which this version does not know.",
                    did_you_mean(key, known) or f"It knows: {', '.join(known)}.",
                )
        return cls(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
