"""The precision in which a loaded model computes: by name, with what this machine can do and what it is asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import torch

from handloom.errors import ConfigError, did_you_mean
from handloom.model.gpt import GPT
from handloom.native import library as native
from handloom.quantization.packed import NativeGPT, PackedGPT, pack_model, with_native_steps
from handloom.runtime import has_native_bf16

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8", "int4")
"""fp32 is exact. fp16, int8 and int4 are formats of the matrices; bf16 is that of all weights and all arithmetic."""
PACKED = ("fp16", "int8", "int4")
"""Those whose matrices are packed."""
QUALITY_BOUNDS = {"fp16": 0.001, "int8": 0.05, "bf16": 0.5, "int4": 1.0}
"""By how much perplexity may be above that of fp32, in percent."""
ENVIRONMENT = "HANDLOOM_PRECISION"
"""The variable that says what `auto` is."""


def resolve_precision(precision: str) -> str:
    """What `precision` means on this machine; of `auto`, the value of `$HANDLOOM_PRECISION`, or `fastest_precision`.

    Raises:
        ConfigError: for a name that is none of `PRECISIONS`, or bf16 on a processor that would emulate it.
    """
    setting = "precision"
    if precision == "auto" and (chosen := os.environ.get(ENVIRONMENT)):
        precision, setting = chosen, ENVIRONMENT
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise ConfigError(
            f"There is no precision {precision!r}" + (f", as {ENVIRONMENT} has it." if setting == ENVIRONMENT else "."),
            f"{hint} There are: {', '.join(PRECISIONS)}.".strip(),
            setting=setting,
        )
    if precision == "bf16" and not has_native_bf16():
        raise ConfigError(
            "This processor has no bfloat16 arithmetic; emulated, it is 5 to 35 times slower than fp32.",
            "Set `precision` to int8 for speed, or to fp32 for exact results.",
            setting=setting,
        )
    return fastest_precision() if precision == "auto" else precision


def fastest_precision() -> str:
    """What `auto` is: the fastest on this machine of those that hardly change the perplexity.

    The one place that decides it: a measured profile of this machine belongs here. Without the native part a token
    takes longer in bf16 than in fp32, also where the processor has bfloat16 arithmetic.
    """
    return "int8" if native.available() else "fp32"


def precision_of(model: GPT) -> str:
    """The precision that a model is in, one of `PRECISIONS`."""
    if isinstance(model, PackedGPT):
        return model.precision
    return "bf16" if model.dtype == torch.bfloat16 else "fp32"


def described(model: GPT) -> str:
    """The precision that a model is in and what computes it, in a few words."""
    library, precision = native.available(), precision_of(model)
    if isinstance(model, NativeGPT) and library is not None:
        return f"{precision} weights, C kernels ({library.variant})"
    why = f", since {native.why_unavailable()}" if library is None else ""
    return f"{precision}{' weights' if precision in PACKED else ''}, PyTorch{why}"


def set_precision(model: GPT, precision: str, on_note: Callable[[str], None] = warnings.warn) -> GPT:
    """The model in that precision, one of `PRECISIONS`. The one given is taken apart, unless it is to be fp32.

    `on_note` is called where it will be slow, since the native part is not there.

    Raises:
        ConfigError: as `resolve_precision`.
    """
    precision = resolve_precision(precision)
    if precision == "fp32":
        return model if native.available() is None else with_native_steps(model)
    if precision == "bf16":
        return model.to(torch.bfloat16)
    note_if_slow(precision, on_note)
    return pack_model(model, precision)


def note_if_slow(precision: str, on_note: Callable[[str], None]) -> None:
    """Call `on_note` where packed matrices are multiplied by PyTorch, since the native part is not there."""
    if (why := native.why_unavailable()) is not None:
        on_note(
            f"There is no native part for {precision}: {why}. PyTorch computes the same numbers, slower than fp32. "
            "Install a C compiler, or leave the precision at fp32."
        )
