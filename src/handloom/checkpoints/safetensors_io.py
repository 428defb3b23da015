"""Tensors by name: safetensors files, and the check of names and shapes against those of a model."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from handloom import storage
from handloom.errors import CheckpointError


def require_same_shapes(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], origin: Path, remedy: str
) -> None:
    """Raise CheckpointError unless the tensors of `origin` have the wanted names and shapes."""
    missing, unused = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    surplus = f"{unused[0]} of shape {found[unused[0]]}, which the model does not have" if unused else ""
    problem = ""
    if missing:
        also = f"; there is {surplus}" if surplus else ""
        problem = f"In {origin} the tensor {missing[0]} of shape {wanted[missing[0]]} is missing{also}."
    elif surplus:
        problem = f"{origin} holds the tensor {surplus}."
    elif wrong := next((name for name in wanted if found[name] != wanted[name]), None):
        problem = f"In {origin} the tensor {wrong} has shape {found[wrong]} instead of {wanted[wrong]}."
    if problem:
        raise CheckpointError(problem, remedy)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name to a safetensors file."""
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:  # which wraps the system's error; its number is in the text
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number.group(1)) if number else errno.EIO, str(error)) from error


def read_tensors(path: Path, remedy: str = "Use an earlier checkpoint of the run.") -> dict[str, Tensor]:
    """Read a safetensors file, memory-mapped.

    Raises CheckpointError with `remedy` when it is missing or not such a file.
    """
    storage.require_content(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", remedy) from None
