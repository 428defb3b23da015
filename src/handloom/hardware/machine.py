"""The facts of this machine that cost nothing to read: processor, cores, caches, memory. Knows no torch."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from handloom import cgroups

INSTRUCTIONS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Instruction sets that matter for matrix products, as Linux names them."""


@dataclass(frozen=True)
class Machine:
    """A processor with its memory, as far as this process may use it."""

    processor: str
    architecture: str
    instructions: tuple[str, ...]
    """Those of `INSTRUCTIONS` that it has."""
    physical_cores: int
    logical_cores: int
    affinity: int
    """Logical cores that this process may run on."""
    quota: float | None
    """Cores of time that its control group allows; None: no limit."""
    cache_bytes: int | None
    """All last-level caches together."""
    memory_bytes: int
    available_bytes: int
    memory_limit: int | None
    """Of the control group."""
    swap_used_bytes: int

    @property
    def granted(self) -> int:
        """Cores that this process may compute on: by affinity and quota, at least 1."""
        return self.affinity if self.quota is None else max(1, min(self.affinity, int(self.quota)))

    @property
    def granted_physical(self) -> int:
        """The same, with two hyper-threads of a core counted as one."""
        return max(1, min(self.granted, round(self.affinity * self.physical_cores / self.logical_cores)))


def machine(root: Path = Path("/")) -> Machine:
    """This machine; `root` holds `proc` and `sys`, where there are such folders."""
    import psutil

    logical = os.cpu_count() or 1
    name, instructions, physical = _cpuinfo(root / "proc" / "cpuinfo")
    memory, swap, limits = psutil.virtual_memory(), psutil.swap_memory(), cgroups.limits(root)
    return Machine(
        processor=name or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        instructions=instructions,
        physical_cores=physical or psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        affinity=len(granted_cpus()),
        quota=limits.cores,
        cache_bytes=_last_level_cache(root / "sys/devices/system/cpu"),
        memory_bytes=int(memory.total),
        available_bytes=int(memory.available),
        memory_limit=limits.memory_bytes,
        swap_used_bytes=int(swap.used),
    )


def granted_cpus() -> set[int]:
    """The numbers of the logical cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cpuinfo(path: Path) -> tuple[str, tuple[str, ...], int]:
    """Name, instruction sets and physical cores of /proc/cpuinfo; empty and 0 for what it does not say."""
    name, flags, cores = "", set[str](), set[tuple[str, str]]()
    package = ""
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key in ("model name", "Model"):
                name = name or value
            elif key in ("flags", "Features"):
                flags |= set(value.split())
            elif key == "physical id":
                package = value
            elif key == "core id":
                cores.add((package, value))
    return name, tuple(one for one in INSTRUCTIONS if one in flags), len(cores)


def _last_level_cache(cpus: Path) -> int | None:
    """Bytes of all caches of the highest level; those shared by cores count once."""
    found: dict[int, dict[str, int]] = {}
    for index in cpus.glob("cpu[0-9]*/cache/index*"):
        with suppress(OSError, ValueError, KeyError):
            read = {name: (index / name).read_text("ascii").strip() for name in ("level", "size", "shared_cpu_list")}
            size = int(read["size"][:-1]) * {"K": 1 << 10, "M": 1 << 20}[read["size"][-1]]
            found.setdefault(int(read["level"]), {})[read["shared_cpu_list"]] = size
    return sum(found[max(found)].values()) if found else None
