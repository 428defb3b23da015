"""Tensors by name from a published folder: safetensors or pickled, in one file or in several with an index.

Knows no model. Nothing in a file is executed: pickles are read by torch's weights-only unpickler, which knows tensors
and nothing else. Files are memory-mapped where their format allows; half precision becomes float32.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from handloom import storage
from handloom.checkpoints.formats import AGAIN, INDEX, SAFETENSORS, choose_weights
from handloom.checkpoints.safetensors_io import read_tensors
from handloom.errors import CheckpointError

_MALFORMED = (
    OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError,
    MemoryError, OverflowError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""What unpickling a file may raise that is incomplete or is something else altogether."""
_HALVES = (torch.float16, torch.bfloat16)
_AT_ONCE = 16 << 20
"""Bytes in half precision that are widened before the file is mapped again."""


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder; those in float16 and bfloat16 as float32.

    The first form there is counts: `model.safetensors`, the same in shards, `pytorch_model.bin`, the same in shards.
    Raises CheckpointError: a file is missing, incomplete, holds anything but tensors, or disagrees with the index.
    """
    found = choose_weights([path.name for path in folder.iterdir() if path.is_file()], str(folder))
    read = _read_safetensors if found.startswith(SAFETENSORS) else _read_pickled
    return _read_shards(folder / found, read) if found.endswith(INDEX) else read(folder / found)


def read_metadata(folder: Path) -> dict[str, str]:
    """The metadata of `model.safetensors`; empty where the file is missing or damaged."""
    try:
        with safe_open(folder / SAFETENSORS, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    places = storage.read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} lacks a weight_map from tensors to files.", AGAIN)
    tensors: dict[str, Tensor] = {}
    files = sorted(set(places.values()))
    for file in files:
        if Path(file).name != file or file in (".", ".."):
            raise CheckpointError(f"{index} names the file {file!r}, which is not in its own folder.", AGAIN)
        if not (index.parent / file).is_file():
            raise CheckpointError(f"{index} names the file {file}, which is missing.", AGAIN)
    for file in files:
        for name, tensor in read(index.parent / file).items():
            if places.get(name) != file:
                where = f"puts it into {places[name]}" if name in places else "does not name it"
                raise CheckpointError(f"{file} holds the tensor {name}, but {index} {where}.", AGAIN)
            tensors[name] = tensor
    if missing := sorted(places.keys() - tensors.keys()):
        raise CheckpointError(
            f"{index} puts the tensor {missing[0]} into {places[missing[0]]}, which does not hold it.", AGAIN
        )
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    return _upcast(lambda: read_tensors(path, AGAIN), mapped=True)


def _read_pickled(path: Path) -> dict[str, Tensor]:
    mapped = zipfile.is_zipfile(path)  # files of before PyTorch 1.6 are not zip archives, and cannot be mapped
    return _upcast(lambda: _require_tensors(path, unpickle(path, mapped)), mapped)


def _upcast(read: Callable[[], dict[str, Tensor]], mapped: bool) -> dict[str, Tensor]:
    """What `read` returns, in float32 where it is in half precision.

    The pages of a mapped file that were read stay in memory until the mapping goes. So the file is mapped again after
    every few tensors, and the largest come first; else this would take three times the file instead of twice.
    """
    tensors = read()
    halves = sorted((name for name in tensors if tensors[name].dtype in _HALVES), key=lambda n: tensors[n].nbytes)
    wide: dict[str, Tensor] = {}
    seen = 0
    while halves:
        if mapped and seen > _AT_ONCE:
            tensors, seen = {}, 0  # the old mapping goes before the new one comes
            tensors = read()
        name = halves.pop()
        seen += tensors[name].nbytes
        wide[name] = tensors.pop(name).float()
    return {name: tensor for name, tensor in tensors.items() if name not in wide} | wide


def unpickle(path: Path, mapped: bool) -> dict[str, Any]:
    """The dict of tensors and plain values in a pickled file, read by torch's weights-only unpickler.

    Raises CheckpointError: the file is damaged, is not a dict, or wants to run something.
    """
    storage.require_content(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old ways of pickling
            found = torch.load(path, map_location=_where_it_is, weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, *_MALFORMED) as error:
        if isinstance(error, pickle.UnpicklingError) or re.search("[Ww]eights[_ ]only", str(error)):
            raise _unpickled(path, str(error)) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise CheckpointError(f"{path} cannot be read: {reason}.", AGAIN) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not tensors with names.", AGAIN)
    return found


def _require_tensors(path: Path, found: dict[str, Any]) -> dict[str, Tensor]:
    """The same, once all are known to be tensors."""
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise CheckpointError(
                f"{path}: the entry {name!r} is a {type(value).__name__}, not a plain tensor.",
                "Handloom reads the weights of a model alone, not what a training program saved around them.",
            )
    return {name: value.detach() for name, value in found.items()}


def _unpickled(path: Path, message: str) -> CheckpointError:
    """The error for a pickle that is damaged, or wants more than tensors."""
    wanted = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"(?:class|function) ([\w.]+)", message)
    if wanted:
        return CheckpointError(
            f"{path} is more than tensors: it asks to run {wanted.group(1)}. Nothing of it was executed.",
            "Use the safetensors file of the same model, or one whose origin you trust.",
        )
    return CheckpointError(f"{path} is damaged or holds no tensors; nothing of it was executed.", AGAIN)


def _where_it_is(storage: Any, location: str) -> Any:
    """Leaves a storage in main memory, whatever device it was saved from."""
    return storage
