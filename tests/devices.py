"""A CPU in disguise: a device of another name whose tensors refuse to mix with plain ones.

It finds what a graphics card would find, without one: tensors made on the wrong device, and `.numpy()` of a model's.

    with disguise() as device:
        to_device(model, device)
        loss(model, batch.to(device)).backward()
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "disguise"
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._local_scalar_dense.default)


class DisguisedTensor(Tensor):
    """Its numbers are in a plain tensor, which only this file touches."""

    @staticmethod
    def __new__(cls, plain):
        return torch.Tensor._make_wrapper_subclass(
            cls, plain.size(), strides=plain.stride(), storage_offset=plain.storage_offset(), dtype=plain.dtype,
            device=torch.device(NAME, 0), requires_grad=plain.requires_grad,
        )  # fmt: skip

    def __init__(self, plain):
        self.plain = plain

    def __repr__(self):
        return f"DisguisedTensor({self.plain!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """What makes tensors, and so has none to be dispatched by."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class _Data(TorchFunctionMode):
    """`torch.tensor(list, device=...)`, which PyTorch builds out of reach of a dispatch mode."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == NAME:
            return function(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        return function(*args, **kwargs)


def _run(function, args, kwargs):
    given = tree_flatten((args, kwargs))[0]
    ours = [value for value in given if isinstance(value, DisguisedTensor)]
    plain = [value for value in given if isinstance(value, Tensor) and not isinstance(value, DisguisedTensor)]
    if ours and any(value.ndim for value in plain) and function not in _MOVES:
        raise RuntimeError(f"{function} mixes the device with plain tensors.")
    device = kwargs.get("device")
    if device is not None and torch.device(device).type in (NAME, "cpu"):
        disguised = torch.device(device).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    else:
        disguised = isinstance(args[0], DisguisedTensor) if function in _MOVES and args else bool(ours)
    wrappers = {id(value.plain): value for value in ours}
    found = function(*tree_map(_bare, args), **tree_map(_bare, kwargs))

    def dressed(value):
        if id(value) in wrappers:
            return wrappers[id(value)]
        return DisguisedTensor(value) if disguised and isinstance(value, Tensor) else value

    return tree_map(dressed, found)


def _bare(value):
    return value.plain if isinstance(value, DisguisedTensor) else value


_registered = []


@contextmanager
def disguise():
    """The device, which exists inside only."""
    if not _registered:
        backend_registration._setup_privateuseone_for_python_backend(NAME)
        getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]
        _registered.append(NAME)
    with _Data(), _Mode():
        yield torch.device(NAME, 0)


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model; gradients that it has are left behind."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    return model


def run_checks(file: Path) -> None:
    """Run a file of tests in a process of its own; every one of them has to pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[100%]" in result.stdout
