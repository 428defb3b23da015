"""Tensors by name from a published folder: safetensors or pickled, in one file or in several with an index.

Knows no model. Nothing that stands in a file is executed: pickles are read by torch's weights-only
unpickler, which knows tensors and nothing else. Files are memory-mapped where their format allows. What they
hold in half precision comes out in float32, which is all that we compute in.
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
from handloom.checkpoints import native
from handloom.checkpoints.formats import INDEX, SAFETENSORS, choose_weights
from handloom.errors import CheckpointError

_AGAIN = "Copy or fetch the folder again from where it came."
_MALFORMED = (
    OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError,
    MemoryError, OverflowError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""What unpickling a file may raise that is cut short or is something else altogether."""


_HALVES = (torch.float16, torch.bfloat16)
_AT_ONCE = 16 << 20
"""Bytes in half precision that are widened before the file is mapped anew."""


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor that the folder holds; those in float16 and bfloat16 as float32.

    Of several forms the first is taken: `model.safetensors`, the same in several files,
    `pytorch_model.bin`, the same in several files.

    Raises:
        CheckpointError: no weights, a file that is missing, torn, or holds anything but tensors, or an
            index that disagrees with its files.
    """
    found = choose_weights([path.name for path in folder.iterdir() if path.is_file()], str(folder))
    read = _read_safetensors if found.startswith(SAFETENSORS) else _read_pickled
    return _read_several(folder / found, read) if found.endswith(INDEX) else read(folder / found)


def read_metadata(folder: Path) -> dict[str, str]:
    """What `model.safetensors` remarks beside its tensors; nothing where there is no such file, or a torn one."""
    try:
        with safe_open(folder / SAFETENSORS, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _read_several(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    places = storage.read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files.", _AGAIN)
    tensors: dict[str, Tensor] = {}
    several = sorted(set(places.values()))
    for file in several:
        if Path(file).name != file or file in (".", ".."):
            raise CheckpointError(f"{index} names the file {file!r}, which is not in its own folder.", _AGAIN)
        if not (index.parent / file).is_file():
            raise CheckpointError(f"{index} names the file {file}, which is missing.", _AGAIN)
    for file in several:
        for name, tensor in read(index.parent / file).items():
            if places.get(name) != file:
                where = f"puts it into {places[name]}" if name in places else "does not name it"
                raise CheckpointError(f"{file} holds the tensor {name}, but {index} {where}.", _AGAIN)
            tensors[name] = tensor
    if missing := sorted(places.keys() - tensors.keys()):
        raise CheckpointError(
            f"{index} puts the tensor {missing[0]} into {places[missing[0]]}, which does not hold it.", _AGAIN
        )
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    return _upcast(lambda: native.read_tensors(path, _AGAIN), mapped=True)


def _read_pickled(path: Path) -> dict[str, Tensor]:
    # Files of before PyTorch 1.6 are no zip archives, and cannot be mapped.
    mapped = zipfile.is_zipfile(path)
    return _upcast(lambda: _plain(path, unpickle(path, mapped)), mapped)


def _upcast(read: Callable[[], dict[str, Tensor]], mapped: bool) -> dict[str, Tensor]:
    """What `read` gives, in float32 where it is in half precision.

    The pages of a mapped file that were read stay in memory until the mapping goes. So the file is mapped anew after
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
    """What a pickled file holds: a dict of tensors and plain values, read by torch's weights-only unpickler.

    Raises:
        CheckpointError: for a file that is torn, is no dict, or wants to run something.
    """
    storage.require_content(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old ways of pickling, which nobody here can change
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _unpickled(path, str(error)) from None
    except _MALFORMED as error:
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise _unpickled(path, str(error)) from None
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}.", _AGAIN) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not tensors with names.", _AGAIN)
    return found


def _plain(path: Path, found: dict[str, Any]) -> dict[str, Tensor]:
    """The same, once it is certain that all are tensors."""
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise CheckpointError(
                f"{path}: the entry {name!r} is a {type(value).__name__}, not a plain tensor.",
                "Handloom reads the weights of a model alone, not what a training program saved around them.",
            )
    return {name: value.detach() for name, value in found.items()}


def _unpickled(path: Path, message: str) -> CheckpointError:
    """For a pickle that is torn, or wants more than tensors."""
    wanted = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"(?:class|function) ([\w.]+)", message)
    if wanted:
        return CheckpointError(
            f"{path} is more than tensors: it asks to run {wanted.group(1)}. Nothing of it was executed.",
            "Use the safetensors file of the same model, or one whose origin you trust.",
        )
    return CheckpointError(f"{path} is torn or holds no tensors; nothing of it was executed.", _AGAIN)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
