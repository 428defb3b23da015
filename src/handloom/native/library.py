"""The C library for this processor: found or built, and loaded.

Wheels for Linux bring it along. Elsewhere it is built once for its source, compiler and flags, and kept in the cache.
Without a compiler there is none, and everything works through PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from handloom.errors import HandloomError
from handloom.native.compiling import BUILT, VARIANTS, compile_variant, source_key
from handloom.runtime import cache_folder

MAX_ROWS = 16
"""Rows that `decode_step` takes at most; the C says the same (`native.h`)."""
ACTIVATIONS = {None: 0, "gelu_tanh": 1, "gelu": 2, "relu": 3}

_pointer = ctypes.c_void_p


class LinearStruct(ctypes.Structure):
    """`Linear` of native.h."""

    _fields_ = [
        ("weight", _pointer),
        ("scales", _pointer),
        ("bias", _pointer),
        ("bits", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
    ]


class NormStruct(ctypes.Structure):
    """`Norm` of native.h."""

    _fields_ = [("weight", _pointer), ("bias", _pointer)]


class BlockStruct(ctypes.Structure):
    """`Block` of native.h."""

    _fields_ = [
        ("attention_norm", NormStruct),
        ("feedforward_norm", NormStruct),
        ("qkv", _pointer),
        ("out", _pointer),
        ("up", _pointer),
        ("down", _pointer),
        ("keys", _pointer),
        ("values", _pointer),
        ("scale", ctypes.c_float),
    ]


class ModelStruct(ctypes.Structure):
    """`Model` of native.h."""

    _fields_ = [
        ("layers", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("embed_dim", ctypes.c_int32),
        ("vocab_size", ctypes.c_int32),
        ("context_length", ctypes.c_int32),
        ("capacity", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("norm_eps", ctypes.c_float),
        ("embedding", _pointer),
        ("position_embedding", _pointer),
        ("blocks", _pointer),
        ("final_norm", NormStruct),
        ("head", _pointer),
    ]


@dataclass(frozen=True)
class Library:
    """The built part, loaded."""

    variant: str
    path: Path
    functions: ctypes.CDLL


class NativeUnavailableError(Exception):
    """Why there is no native part on this machine."""


@functools.cache
def load_library(variant: str | None = None) -> Library:
    """The library for this processor, built if it is not there.

    Args:
        variant: one of `variants()`; the best one if not given.

    Raises:
        NativeUnavailableError: without a compiler, where the build fails, or with HANDLOOM_NATIVE=0.
    """
    if os.environ.get("HANDLOOM_NATIVE") == "0":
        raise NativeUnavailableError("HANDLOOM_NATIVE is 0")
    variant = variant or variants()[0]
    path = build(variant)
    try:
        functions = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailableError(f"{path.name} does not load: {error}") from error
    return Library(variant, path, with_types(functions))


def with_types(functions: ctypes.CDLL) -> ctypes.CDLL:
    """The library, told what its functions take and return."""
    i32, i64 = ctypes.c_int32, ctypes.c_int64
    functions.decode_step_bytes.argtypes, functions.decode_step_bytes.restype = [_pointer, i32], i64
    functions.decode_step.argtypes = [_pointer, _pointer, _pointer, i32, _pointer, _pointer, _pointer, i64, i32]
    functions.activation.argtypes, functions.activation.restype = [_pointer, i64, _pointer, i32, i32], None
    functions.linear.argtypes = [_pointer, _pointer, i64, _pointer, i32, i32]
    return functions


def available() -> Library | None:
    """The library, or None."""
    found = _attempt()
    return found if isinstance(found, Library) else None


def why_unavailable() -> str | None:
    """Why there is no library, as a part of a sentence; None if there is one."""
    found = _attempt()
    return None if isinstance(found, Library) else str(found)


@functools.cache
def _attempt() -> Library | NativeUnavailableError:
    try:
        return load_library()
    except NativeUnavailableError as error:
        return error


def variants() -> list[str]:
    """What this processor can run, the best first."""
    has = torch.cpu.get_capabilities() if platform.machine() in ("x86_64", "AMD64") else {}
    return [name for name, (needs, _) in VARIANTS.items() if all(has.get(need) for need in needs)]


def build(variant: str, extra_flags: str = "") -> Path:
    """The library of a variant: the one that came with the package, or one in the cache, compiled if it is not there.

    Raises:
        NativeUnavailableError: without a compiler, without a cache folder to write to, or where the build fails.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    shipped = BUILT / f"{variant}-{source_key(variant)}.so"
    if not extra_flags and shipped.exists():
        return shipped
    if os.name != "posix" or shutil.which(compiler[0]) is None:
        raise NativeUnavailableError(f"there is no C compiler ({compiler[0]})")
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    try:
        target = cache_folder() / "native" / f"{variant}-{source_key(variant, version + extra_flags)}.so"
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as scratch:
            built = Path(scratch) / target.name
            if failed := compile_variant(compiler, variant, built, extra_flags):
                raise NativeUnavailableError(f"{compiler[0]} failed: {failed}")
            os.replace(built, target)
    except (OSError, HandloomError) as error:
        raise NativeUnavailableError(f"its library cannot be kept in the cache: {error}") from error
    return target
