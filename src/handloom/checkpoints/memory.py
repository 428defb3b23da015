"""Whether a model can be held at all: asked before anything of it is made."""

from __future__ import annotations

from handloom import runtime
from handloom.errors import ModelError
from handloom.model.config import GPTConfig
from handloom.model.summary import parameter_count

_LAYER_BYTES = 20_000
"""What the Python objects of a block take, however narrow it is."""


def require_memory(config: GPTConfig, origin: object, copies: int = 1) -> None:
    """Raise ModelError when a model of that shape is larger than all memory of this machine.

    Args:
        config: the shape.
        origin: what asks for it, for the message.
        copies: arrays as large as the weights; a training run has gradients and the optimizer's state too.
    """
    needed = 4 * copies * parameter_count(config) + _LAYER_BYTES * config.layers
    there = runtime.memory_bytes()
    if needed > there:
        raise ModelError(
            f"{origin} asks for a model of {config.layers:,} layers, width {config.embed_dim:,}, context "
            f"{config.context_length:,} and {config.vocab_size:,} token ids: {_gigabytes(needed)} GB, and this "
            "machine has "
            f"{_gigabytes(there)} GB.",
            "Choose a smaller model, or a machine with more memory; a size that was not meant is a damaged file.",
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f}" if count < 10**12 else f"{count // 10**9:,}"
