"""What a GPT is made of: one frozen dataclass, its presets, its arithmetic. Knows no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from handloom.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2 style model.

    The defaults are GPT-2's 124M model (Radford et al. 2019, "Language Models are Unsupervised
    Multitask Learners").
    """

    vocab_size: int = 50257
    """V: how many token ids there are."""
    context: int = 1024
    """The most positions the model can look at, in tokens."""
    layers: int = 12
    """Transformer blocks."""
    heads: int = 12
    """H: attention heads in each block; must divide `width`."""
    width: int = 768
    """C: channels of the residual stream."""
    inner_width: int | None = None
    """Channels inside the feed-forward network; 4 * width if not given."""
    dropout: float = 0.0
    """Probability of dropping an activation while training."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in every LayerNorm."""
    tied_head: bool = True
    """Whether the output head is the token embedding itself."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "heads", "width", "inner_width"):
            value = getattr(self, name)
            if value is None and name == "inner_width":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(
                    f"The model's {name} is {value!r}; it must be a whole number of at least 1.",
                    f"Set {name} to a positive whole number.",
                )
        if self.width % self.heads:
            near = [h for h in range(1, self.width + 1) if self.width % h == 0]
            best = min(near, key=lambda h: abs(h - self.heads))
            raise ConfigError(
                f"The model's width {self.width} cannot be shared equally by heads {self.heads}.",
                f"Choose a number of heads that divides the width, for example {best}.",
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(
                f"The model's dropout is {self.dropout}; it must be at least 0 and below 1.",
                "Use 0 for no dropout, or for example 0.1.",
            )
        if not self.layer_norm_epsilon > 0:
            raise ConfigError(
                f"The model's layer_norm_epsilon is {self.layer_norm_epsilon}; it must be above 0.",
                "GPT-2 uses 1e-5.",
            )

    @property
    def head_width(self) -> int:
        """D: channels of one head."""
        return self.width // self.heads

    @property
    def feedforward_width(self) -> int:
        """Channels inside the feed-forward network."""
        return self.inner_width if self.inner_width is not None else 4 * self.width

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


PRESETS: dict[str, GPTConfig] = {
    # The four sizes of GPT-2, and the 16-layer variant of it that this project began with.
    "gpt2": GPTConfig(),
    "gpt2-medium": GPTConfig(layers=24, heads=16, width=1024),
    "gpt2-large": GPTConfig(layers=36, heads=20, width=1280),
    "gpt2-xl": GPTConfig(layers=48, heads=25, width=1600),
    "gpt2-16l": GPTConfig(layers=16),
    # Sizes that learn something on a laptop's processor within minutes or hours.
    "nano": GPTConfig(vocab_size=4096, context=128, layers=4, heads=2, width=128),
    "micro": GPTConfig(vocab_size=4096, context=256, layers=4, heads=4, width=256),
    "mini": GPTConfig(vocab_size=8192, context=256, layers=6, heads=6, width=384),
    "small": GPTConfig(vocab_size=16384, context=512, layers=8, heads=8, width=512),
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
