"""Whether a model fits into the memory of this machine: checked before anything of it is made."""

from __future__ import annotations

from handloom import runtime
from handloom.errors import ModelError
from handloom.model.config import GPTConfig
from handloom.model.summary import parameter_count

_BLOCK_BYTES = 20_000
"""The Python objects of a block, however narrow it is."""


def require_memory(config: GPTConfig, origin: object, copies: int = 1) -> None:
    """Raise ModelError for a model that does not fit into the memory of this machine.

    Args:
        origin: what names the shape, for the error.
        copies: arrays as large as the weights; training has gradients and the optimizer's state too.
    """
    needed, there = 4 * copies * parameter_count(config) + _BLOCK_BYTES * config.layers, runtime.memory_bytes()
    if needed > there:
        shown = [f"{size / 1e9:,.1f} GB" if size < 10**12 else f"{size // 10**9:,} GB" for size in (needed, there)]
        raise ModelError(
            f"{origin} describes a model of {config.layers:,} layers, embed_dim {config.embed_dim:,}, context_length "
            f"{config.context_length:,} and vocab_size {config.vocab_size:,}: {shown[0]}, and this machine has "
            f"{shown[1]}.",
            "Choose a smaller model, or a machine with more memory; a size that was not meant is a damaged file.",
        )
