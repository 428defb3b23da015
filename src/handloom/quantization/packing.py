"""Matrices in 4, 8 or 16 bits, in the order in which the native kernels read them (`native/native.h`).

int8 and int4: groups of 32 inputs of one output share a scale in half precision. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from handloom.errors import ModelError

GROUP, BLOCK = 32, 8
BITS = {"int4": 4, "int8": 8, "fp16": 16, "fp32": 32}
"""Bits of a weight, by name."""

_WEIGHTS_AT_ONCE = 1 << 19
"""Of a matrix that are packed together, so that the numbers between take little memory and stay in the cache."""

_SEARCHED = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 1.04, -1.0, -0.95, -0.9, -1.05)
"""Multiples of the plain scale that are tried for a group of 4-bit weights: 8 steps to one side, 7 to the other."""


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix (N, K) as the kernels read it."""

    precision: str
    weight: Tensor
    """fp32: (N, K). fp16: (N/8, K, 8). int8: (N/8, G, 8, 8, 4) int8. int4: (N/8, G, 4, 8, 4) uint8, two in a byte."""
    scales: Tensor | None
    """(N/8, G, 8) half precision, for int8 and int4."""
    outputs: int
    inputs: int

    @property
    def nbytes(self) -> int:
        """Of the weights and their scales."""
        return self.weight.nbytes + (0 if self.scales is None else self.scales.nbytes)


@torch.no_grad()
def pack(matrix: Tensor, precision: str) -> PackedMatrix:
    """(N, K) float32 -> the same in one of `BITS`.

    Raises:
        ModelError: for a number that is not finite, or too large for half precision (fp16: 65,504; int8 and int4:
            that many times their largest whole number).
    """
    N, K = matrix.shape
    if precision == "fp32":
        return PackedMatrix(precision, matrix.detach().contiguous(), None, outputs=N, inputs=K)
    if (at_once := max(1, _WEIGHTS_AT_ONCE // K // BLOCK) * BLOCK) < N:
        parts = [pack(rows, precision) for rows in matrix.split(at_once)]
        of_parts = [part.scales for part in parts if part.scales is not None]
        weight = torch.cat([part.weight for part in parts])
        return PackedMatrix(precision, weight, torch.cat(of_parts) if of_parts else None, outputs=N, inputs=K)
    limit = 65504 * {"fp16": 1, "int8": 127, "int4": 7}[precision]
    if not bool((largest := matrix.abs().amax()) <= limit):
        raise ModelError(
            f"A weight of {float(largest):g} cannot be packed as {precision}, which goes to {limit:,}.",
            "Set `precision` to fp32, or find out why the model has such a weight.",
        )
    padded = torch.nn.functional.pad(
        matrix.detach().float(), (0, 0 if precision == "fp16" else -K % GROUP, 0, -N % BLOCK)
    )
    blocks = padded.shape[0] // BLOCK
    if precision == "fp16":
        halves = padded.half().view(blocks, BLOCK, K).transpose(1, 2).contiguous()
        return PackedMatrix(precision, halves, None, outputs=N, inputs=K)
    q, scales = quantize_groups(padded, BITS[precision])  # (N, G, 32) int8, (N, G) half
    groups = q.shape[1]
    steps = q.view(blocks, BLOCK, groups, 8, 4).permute(0, 2, 3, 1, 4)  # block, group, step, output, input
    if precision == "int4":
        unsigned = (steps + 8).to(torch.uint8)
        steps = unsigned[:, :, :4] | unsigned[:, :, 4:] << 4
    by_block = scales.view(blocks, BLOCK, groups).transpose(1, 2).contiguous()
    return PackedMatrix(precision, steps.contiguous(), by_block, outputs=N, inputs=K)


@torch.no_grad()
def unpack(packed: PackedMatrix, rows: Tensor | None = None) -> Tensor:
    """The inverse of `pack`, up to its rounding: (N, K) float32, or only some rows of it, (..., K).

    Args:
        packed: the matrix.
        rows: (...) int64.
    """
    if packed.precision == "fp32":
        return packed.weight if rows is None else packed.weight[rows]
    rows = torch.arange(packed.outputs) if rows is None else rows
    block, lane = rows // BLOCK, rows % BLOCK
    if packed.precision == "fp16":
        return packed.weight[block, :, lane].float()
    assert packed.scales is not None
    if packed.precision == "int8":
        q = packed.weight[block, :, :, lane].to(torch.int32)  # (..., G, 8, 4)
    else:
        both = packed.weight[block, :, :, lane].to(torch.int32)  # (..., G, 4, 4)
        q = torch.cat([both & 15, both >> 4], dim=-2) - 8  # (..., G, 8, 4)
    scaled = q.flatten(-2).float() * packed.scales[block, :, lane].float()[..., None]  # (..., G, 32)
    return scaled.flatten(-2)[..., : packed.inputs]


def round_inputs(x: Tensor) -> Tensor:
    """(..., K) float32 -> the same as the kernels for int8 and int4 see it: 8-bit numbers, a scale for 32 of them."""
    groups = torch.nn.functional.pad(x, (0, -x.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))  # (..., G, 32)
    top = groups.abs().amax(-1, keepdim=True)  # (..., G, 1)
    whole = (groups * (127 / top.where(top > 0, 1))).round()
    return (whole * (top / 127)).flatten(-2)[..., : x.shape[-1]]


def quantize_groups(matrix: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(N, K), K a multiple of 32 -> whole numbers (N, G, 32) int8 and scales (N, G) half, with q * scale near to it.

    8 bits: -127 to 127, the largest of a group decides. 4 bits: -8 to 7, with the scale that leaves the least squared
    error among those tried; each candidate's scale is first fitted to its own whole numbers.
    """
    if bits == 8:
        groups = matrix.view(matrix.shape[0], -1, GROUP)  # (N, G, 32)
        exact = groups.abs().amax(2, keepdim=True) / 127  # (N, G, 1)
        scale = exact.half().float()
        scale = torch.where(scale < exact, (exact * (1 + 2**-10) + 2**-25).half().float(), scale)  # nothing is cut off
        q = (groups / scale.where(scale != 0, 1)).round().clamp(-127, 127)
        return q.to(torch.int8), scale[..., 0].half()
    groups = matrix.reshape(-1, GROUP).T.contiguous()  # (32, N * G): sums run over the outer dimension, which is faster
    low, high = groups.amin(0), groups.amax(0)
    extreme = torch.where(high > -low, high, low)  # (N * G), with its sign
    scale, most = torch.zeros_like(extreme), torch.full_like(extreme, -1.0)
    q, product = torch.empty_like(groups), torch.empty_like(groups)
    for factor in _SEARCHED:
        _round_to_4_bits(groups, extreme / -8 * factor, q)
        agreement = torch.mul(q, groups, out=product).sum(0)
        fitted = agreement / torch.mul(q, q, out=product).sum(0).clamp(min=1)
        gained = agreement * fitted  # the error is sum(groups ** 2) less this
        better = gained > most
        scale, most = torch.where(better, fitted, scale), torch.where(better, gained, most)
    scale = scale.half()
    _round_to_4_bits(groups, scale.float(), q)
    return q.to(torch.int8).T.reshape(matrix.shape[0], -1, GROUP), scale.view(matrix.shape[0], -1)


def _round_to_4_bits(groups: Tensor, scale: Tensor, out: Tensor) -> None:
    """groups (32, n) in multiples of scale (n), from -8 to 7; a scale of 0 gives 0."""
    torch.mul(groups, torch.where(scale != 0, 1 / scale, 0), out=out).round_().clamp_(-8, 7)
