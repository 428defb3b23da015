"""`sdpa` against `eager` attention, forward and backward: where each is quicker on this machine.

    python benchmarks/attention.py

The rule that comes of it is `sdpa_is_faster` in `handloom/model/attention.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from handloom import runtime
from handloom.model.attention import eager_attention, sdpa_attention

SHAPES = ((16, 2, 128, 64), (8, 4, 256, 64), (4, 8, 512, 64), (4, 12, 1024, 64))


def milliseconds(act: Callable[[], None], times: int = 15) -> float:
    """Median of some runs, after three to warm up."""
    for _ in range(3):
        act()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def forward_and_backward(attend: Callable[[Tensor, Tensor, Tensor], Tensor], projected: Tensor, heads: int) -> None:
    """As in a block: cut one projection into queries, keys and values, attend, and go back."""
    B, T, C3 = projected.shape
    q, k, v = (x.view(B, T, heads, C3 // 3 // heads).transpose(1, 2) for x in projected.split(C3 // 3, -1))
    attend(q, k, v).float().sum().backward()


def main() -> None:
    """Print the table."""
    print(f"{runtime.set_num_threads(None)} threads; milliseconds forward and backward, median of 15")
    print(f"{'B, H, T, D':>20}  {'dtype':>9}  {'sdpa':>7}  {'eager':>8}")
    for B, H, T, D in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            projected = torch.randn(B, T, 3 * H * D, dtype=dtype, requires_grad=True)
            sdpa, eager = (
                milliseconds(lambda attend=attend, x=projected, heads=H: forward_and_backward(attend, x, heads))
                for attend in (sdpa_attention, eager_attention)
            )
            name = str(dtype).removeprefix("torch.")
            print(f"{f'{B}, {H}, {T}, {D}':>20}  {name:>9}  {sdpa:7.1f}  {eager:8.1f}")


if __name__ == "__main__":
    main()
