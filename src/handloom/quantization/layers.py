"""Packed linear layers and embeddings, and an activation in C; without the native part PyTorch computes the same."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handloom.native import library as native
from handloom.quantization.packing import BITS, PackedMatrix, round_inputs, unpack


class PackedLinear(nn.Module):
    """A frozen linear layer (K inputs, N outputs) in one of the formats of `packing.BITS`."""

    def __init__(self, matrix: PackedMatrix, bias: Tensor | None) -> None:
        super().__init__()
        self.precision, self.in_features, self.out_features = matrix.precision, matrix.inputs, matrix.outputs
        self.register_buffer("packed_weight", matrix.weight)
        self.register_buffer("packed_scales", matrix.scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())

    @property
    def matrix(self) -> PackedMatrix:
        """What it multiplies by."""
        weight, scales = self.get_buffer("packed_weight"), self._buffers["packed_scales"]
        return PackedMatrix(self.precision, weight, scales, outputs=self.out_features, inputs=self.in_features)

    @property
    def weight(self) -> Tensor:
        """The matrix it stands for, (N, K) float32; computed each time."""
        return unpack(self.matrix)

    def struct(self) -> native.LinearStruct:
        """What the native part is told; valid as long as the buffers stay where they are."""
        weight, scales, bias = (self._buffers[name] for name in ("packed_weight", "packed_scales", "bias"))
        assert weight is not None
        addresses = (None if buffer is None else buffer.data_ptr() for buffer in (weight, scales, bias))
        return native.LinearStruct(*addresses, BITS[self.precision], self.in_features, self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        library = native.available()
        if library is None or not x.is_cpu or x.dtype != torch.float32:
            x = round_inputs(x) if BITS[self.precision] <= 8 else x
            return F.linear(x, self.weight.to(x.dtype), self._buffers["bias"])
        if x.shape[-1] != self.in_features:
            raise ValueError(f"The layer takes {self.in_features} inputs, and got {tuple(x.shape)}.")
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features)
        rows = x.numel() // self.in_features
        addresses = (ctypes.byref(self.struct()), x.data_ptr(), rows, out.data_ptr())
        if library.functions.linear(*addresses, native.ACTIVATIONS[None], torch.get_num_threads()):
            raise MemoryError(f"There is no memory for {rows} rows of {self.in_features} inputs.")
        return out


class NativeActivation(nn.Module):
    """The activation of a feed-forward layer by the native part, several times as fast as PyTorch's GELU: any shape."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.name, self._module = name, (module,)

    def forward(self, x: Tensor) -> Tensor:
        """x, any shape -> the same shape."""
        library = native.available()
        if library is None or not x.is_cpu or x.dtype != torch.float32:
            y: Tensor = self._module[0](x)
            return y
        x = x.contiguous()
        out = torch.empty_like(x)
        arguments = (x.data_ptr(), x.numel(), out.data_ptr(), native.ACTIVATIONS[self.name])
        library.functions.activation(*arguments, torch.get_num_threads())
        return out


class PackedEmbedding(nn.Module):
    """Token vectors read from a packed matrix, which a tied head shares: ids (...) -> (..., C)."""

    def __init__(self, table: PackedLinear, tied: bool) -> None:
        super().__init__()
        self._table = (table,)  # in a tuple, so that the buffers of a tied head are registered once
        if not tied:
            self.table = table

    @property
    def weight(self) -> Tensor:
        """The table it stands for, (V, C)."""
        return self._table[0].weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., C)."""
        return unpack(self._table[0].matrix, tokens)
