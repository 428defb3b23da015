"""`handloom doctor`: what this machine is, how fast, what Handloom does because of it, and what to fix."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

from handloom.console import megabytes, new_console, plain_table, pluralize, print_json

if TYPE_CHECKING:
    from handloom.hardware.environment import Environment
    from handloom.hardware.findings import Finding

_MATRICES = 123_532_032
"""Weights of GPT-2's 124M model that every token reads: all but biases, norms and positions."""
_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0625, "int4": 0.5625}
"""Bytes of a weight, with its part of a scale."""


def doctor(*, json: bool = False) -> None:
    """Show what this machine is and how fast, what Handloom will choose on it, and what to fix.

    Measures for a few seconds: the read bandwidth of the memory, matrix products, and the disk of the cache. The exit
    code is 0, whatever there is to fix.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    from handloom.hardware.choices import choices
    from handloom.hardware.environment import environment
    from handloom.hardware.findings import findings

    seen = environment()
    chosen, found = choices(seen), findings(seen)
    if json:
        listed = [dataclasses.asdict(one) for one in found]
        print_json({"environment": dataclasses.asdict(seen), "choices": chosen, "findings": listed})
        return
    console = new_console()
    for title, rows in (*_sections(seen), ("What Handloom will use", chosen.items())):
        shown = plain_table(title)
        shown.add_column(width=22)
        shown.add_column(overflow="fold")
        for name, value in rows:
            shown.add_row(name, value)
        console.print(shown)
        console.print()
    console.print("To fix" if found else "Nothing to fix.", style="bold")
    for line in _fixes(found):
        console.print(line)


def _fixes(found: Iterable[Finding]) -> list[str]:
    return [f"{number}. {one.problem} {one.remedy}" for number, one in enumerate(found, 1)]


def _sections(seen: Environment) -> list[tuple[str, list[tuple[str, str]]]]:
    here = seen.machine
    quota = "no quota" if here.quota is None else f"a quota of {here.quota:g}"
    affinity = f"affinity {here.affinity}, {quota}"
    limit = "" if here.memory_limit is None else f", of which the container may use {megabytes(here.memory_limit)}"
    others = "not known" if seen.others is None else f"{seen.others:.1f} cores"
    machine = [
        ("processor", f"{here.processor} ({here.architecture})"),
        ("cores", f"{here.granted} granted ({affinity}); {here.physical_cores} physical, {here.logical_cores} logical"),
        ("instruction sets", " ".join(here.instructions) or "not known"),
        ("last-level cache", "not known" if here.cache_bytes is None else megabytes(here.cache_bytes)),
        ("memory", f"{megabytes(here.memory_bytes)}{limit}; {megabytes(here.available_bytes)} available"),
        ("used by others", others),
        ("frequency", seen.governor or "not known"),
    ]
    software = [
        ("PyTorch", f"{seen.torch}, {seen.torch_instructions}{', with CUDA' if seen.torch_cuda else ', CPU build'}"),
        ("OpenMP", ", ".join(path.rpartition("/")[2] for path in seen.openmp) or "not known"),
        ("C kernels", seen.native or f"none: {seen.native_problem}"),
        ("compiler", seen.compiler or "none"),
        (
            "environment",
            " ".join(f"{name}={value}" for name, value in seen.variables.items()) or "nothing that matters",
        ),
        ("cache", f"{seen.cache}, {megabytes(seen.cache_free_bytes or 0)} free"),
        ("extras", ", ".join(f"{name}: {'yes' if there else 'no'}" for name, there in seen.extras.items())),
    ]
    return [("Machine", machine), ("Measured", _speeds(seen)), ("Software", software)]


def _speeds(seen: Environment) -> list[tuple[str, str]]:
    rows = [(f"{name} matrices", "emulated, not used" if value is None else f"{value / 1e9:,.0f} GFLOP/s")
            for name, value in seen.matrix_speeds.items()]  # fmt: skip
    if seen.cache_speed is not None:
        rows.append(("writing to the cache", f"{megabytes(seen.cache_speed)}/s"))
    if seen.read_bandwidth is None:
        return rows
    limits = ", ".join(f"{name} {seen.read_bandwidth / (_MATRICES * size):,.0f}" for name, size in _BYTES.items())
    bandwidth = f"{seen.read_bandwidth / 1e9:.1f} GB/s, with {pluralize(seen.threads, 'thread')}"
    most = f"{limits} tokens/s: the limit of decoding for GPT-2 124M"
    return [("reading memory", bandwidth), ("so at most", most), *rows]
