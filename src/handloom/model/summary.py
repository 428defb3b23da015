"""What a model is made of: its parts, their parameters, and the arithmetic of one token. Builds no weights."""

from __future__ import annotations

from dataclasses import dataclass

from handloom.model.config import GPTConfig


@dataclass(frozen=True)
class ModulePart:
    """One row of the table."""

    name: str
    shape: str
    count: int
    """How many of them the model has."""
    parameters: int
    """In all of them together."""
    flops: int
    """Floating-point operations for one token, forward, in all of them together (a multiply-add is two)."""


def model_summary(config: GPTConfig, position: int | None = None) -> list[ModulePart]:
    """The parts of a model, in the order a token meets them.

    Args:
        config: its shape.
        position: how many tokens attention looks back at; half the context, the mean in training, if not given.

    Returns:
        one row a part. A tied head has arithmetic, but no parameters of its own.
    """
    C, F, V, L = config.embed_dim, config.feedforward_dim, config.vocab_size, config.layers
    seen = config.context_length // 2 if position is None else position

    def linear(name: str, fan_in: int, fan_out: int) -> ModulePart:
        return ModulePart(name, f"{fan_in} -> {fan_out}", L, L * (fan_in + 1) * fan_out, L * 2 * fan_in * fan_out)

    labels = len(config.label_names)
    parts = [
        ModulePart("token embedding", f"{V} x {C}", 1, V * C, 0),
        ModulePart("position embedding", f"{config.context_length} x {C}", 1, config.context_length * C, 0),
        ModulePart("LayerNorm", f"{C}", 2 * L + 1, (2 * L + 1) * 2 * C, (2 * L + 1) * 8 * C),
        linear("attention qkv", C, 3 * C),
        ModulePart("attention", f"{config.heads} heads of {config.head_dim}", L, 0, L * 4 * seen * C),
        linear("attention out", C, C),
        linear("feed-forward up", C, F),
        linear("feed-forward down", F, C),
        ModulePart(
            "head" + (" (tied)" if config.tie_embeddings else ""),
            f"{C} -> {V}",
            1,
            0 if config.tie_embeddings else V * C,
            2 * C * V,
        ),
        ModulePart("head for labels", f"{C} -> {labels}", 1, labels * C, 0),  # once a text, not for each token
    ]
    return parts if labels else parts[:-1]


def parameter_count(config: GPTConfig) -> int:
    """How many numbers the model learns."""
    return sum(part.parameters for part in model_summary(config))
