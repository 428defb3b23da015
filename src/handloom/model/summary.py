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

    def part(name: str, shape: str, *, count: int = L, each: int = 0, flops: int = 0) -> ModulePart:
        return ModulePart(name, shape, count, parameters=count * each, flops=count * flops)

    def linear(name: str, fan_in: int, fan_out: int) -> ModulePart:
        return part(name, f"{fan_in} -> {fan_out}", each=(fan_in + 1) * fan_out, flops=2 * fan_in * fan_out)

    labels = len(config.label_names)
    head, own = ("head (tied)", 0) if config.tie_embeddings else ("head", V * C)
    parts = [
        part("token embedding", f"{V} x {C}", count=1, each=V * C),
        part("position embedding", f"{config.context_length} x {C}", count=1, each=config.context_length * C),
        part("LayerNorm", f"{C}", count=2 * L + 1, each=2 * C, flops=8 * C),
        linear("attention qkv", C, 3 * C),
        part("attention", f"{config.heads} heads of {config.head_dim}", flops=4 * seen * C),
        linear("attention out", C, C),
        linear("feed-forward up", C, F),
        linear("feed-forward down", F, C),
        part(head, f"{C} -> {V}", count=1, each=own, flops=2 * C * V),
        part("head for labels", f"{C} -> {labels}", count=1, each=labels * C),  # once a text, not for each token
    ]
    return parts if labels else parts[:-1]


def parameter_count(config: GPTConfig) -> int:
    """How many numbers the model learns."""
    return sum(part.parameters for part in model_summary(config))
