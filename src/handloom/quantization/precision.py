"""The precision in which a loaded model computes: by name, with what this machine can do and what it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from handloom.errors import ConfigError, did_you_mean
from handloom.model.gpt import GPT
from handloom.native import library as native
from handloom.quantization.packed import pack_model
from handloom.runtime import has_native_bf16

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8", "int4")
"""fp32 is exact. fp16, int8 and int4 are formats of the matrices; bf16 is that of all weights and all arithmetic."""


def resolve_precision(precision: str) -> str:
    """What `precision` means on this machine: `auto` is int8 where the native part is there, fp32 elsewhere.

    Raises:
        ConfigError: for a name that is none of `PRECISIONS`, or bf16 on a processor that would emulate it.
    """
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise ConfigError(
            f"There is no precision {precision!r}.",
            f"{hint} There are: {', '.join(PRECISIONS)}.".strip(),
            setting="precision",
        )
    if precision == "bf16" and not has_native_bf16():
        raise ConfigError(
            "This processor has no bfloat16 arithmetic; emulated, it is 5 to 35 times slower than fp32.",
            "Set `precision` to int8 for speed, or to fp32 for exact results.",
            setting="precision",
        )
    if precision == "auto":
        return "int8" if native.available() else "fp32"
    return precision


def set_precision(model: GPT, precision: str, on_note: Callable[[str], None] = warnings.warn) -> GPT:
    """The model in that precision, one of `PRECISIONS`. The one given is taken apart, unless it is fp32 already.

    `on_note` is called where it will be slow, since the native part is not there.

    Raises:
        ConfigError: as `resolve_precision`.
    """
    precision = resolve_precision(precision)
    if precision == "fp32":
        return model
    if precision == "bf16":
        return model.to(torch.bfloat16)
    if (why := native.why_unavailable()) is not None:
        on_note(
            f"There is no native part for {precision}: {why}. PyTorch computes the same numbers, slower than fp32. "
            "Install a C compiler, or leave the precision at fp32."
        )
    return pack_model(model, precision)
