"""What makes this machine slower than it is, each with a remedy. Pure functions of an `Environment`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from handloom.hardware.environment import Environment

BUSY = 0.25
"""Cores that others may use before it is worth a line."""
LITTLE_DISK, LITTLE_MEMORY, SLOW_DISK = 5 << 30, 2 << 30, 50e6
TORCH_LEVELS = {"avx512f": "AVX512", "avx2": "AVX2"}
_LIMITING = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


@dataclass(frozen=True)
class Finding:
    """Something to fix."""

    name: str
    problem: str
    remedy: str


def findings(seen: Environment) -> list[Finding]:
    """All that there is to fix, what costs most first."""
    return [found for rule in _RULES for found in rule(seen)]


def _native(seen: Environment) -> Iterator[Finding]:
    if seen.native_problem is None:
        return
    if seen.variables.get("HANDLOOM_NATIVE") == "0":
        remedy = "Remove HANDLOOM_NATIVE from the environment."
    elif seen.compiler is None:
        remedy = "Install a C compiler: `sudo apt install gcc`, `sudo dnf install gcc`, or `xcode-select --install`."
    elif seen.cache_problem is not None:
        remedy = "Let HANDLOOM_CACHE name a folder that you may write to."
    else:
        remedy = f"Repair the compiler {seen.compiler}, or let CC name another one."
    why = f"There are no C kernels: {seen.native_problem}."
    yield Finding("native", f"{why} int8 and int4 are slower than fp32 without them.", remedy)


def _instructions(seen: Environment) -> Iterator[Finding]:
    for name in _LIMITING:
        if name in seen.variables:
            problem = f"{name}={seen.variables[name]} keeps PyTorch from using all instruction sets."
            yield Finding("instructions", problem, f"Remove {name} from the environment.")
            return
    best = next((level for flag, level in TORCH_LEVELS.items() if flag in seen.machine.instructions), None)
    if best and seen.torch_instructions not in ("", *list(TORCH_LEVELS.values())[: _rank(best) + 1]):
        problem = f"PyTorch computes with {seen.torch_instructions}, although the processor has {best}."
        yield Finding("instructions", problem, "Install PyTorch's own CPU build; docs/dependencies.md says how.")


def _rank(level: str) -> int:
    return list(TORCH_LEVELS.values()).index(level)


def _waiting(seen: Environment) -> Iterator[Finding]:
    given = seen.variables
    if given.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        problem = "OMP_WAIT_POLICY=ACTIVE: waiting threads take the cores from those that compute, a third of decoding."
        yield Finding("waiting", problem, "Remove it, or set OMP_WAIT_POLICY=PASSIVE.")
    spins = given.get("GOMP_SPINCOUNT", "").lower()
    if spins.startswith("inf") or (spins.isdecimal() and int(spins) > 10**6):
        problem = f"GOMP_SPINCOUNT={spins}: waiting threads hardly ever sleep, and take the cores from others."
        yield Finding("waiting", problem, "Remove GOMP_SPINCOUNT from the environment.")


def _openmp(seen: Environment) -> Iterator[Finding]:
    names = [Path(path).name for path in seen.openmp]
    if len(seen.openmp) > 1:
        problem = f"{len(names)} OpenMP libraries are in one process, each with its threads: {', '.join(seen.openmp)}."
        preload = "Remove LD_PRELOAD" if "LD_PRELOAD" in seen.variables else "Use an environment with Handloom alone"
        yield Finding("openmp", problem, f"{preload}, so that PyTorch's own is the only one.")
    ignored = sorted(name for name in seen.variables if name.startswith("KMP_"))
    if ignored and names and not any(name.startswith(("libiomp", "libomp")) for name in names):
        problem = f"{', '.join(ignored)} has no effect: PyTorch uses {names[0]} here, not Intel's OpenMP."
        yield Finding("openmp", problem, "Use the OMP_ variables instead, or remove it.")


def _threads(seen: Environment) -> Iterator[Finding]:
    here, asked = seen.machine, seen.variables.get("OMP_NUM_THREADS")
    if seen.threads > here.granted:
        problem = f"{seen.threads} threads compute on {here.granted} cores, and wait for one another."
        yield Finding("threads", problem, f"Set OMP_NUM_THREADS={here.granted}, or remove it.")
    elif asked is not None and seen.threads < here.granted_physical:
        problem = f"OMP_NUM_THREADS={asked}: only {seen.threads} of {here.granted} cores compute."
        yield Finding("threads", problem, "Remove it where nothing else needs the cores.")
    elif seen.threads > here.granted_physical:
        problem = f"{seen.threads} threads share {here.granted_physical} cores, two on each (hyper-threading)."
        remedy = f"Set OMP_NUM_THREADS={here.granted_physical} if `handloom tune` finds that faster."
        yield Finding("threads", problem, remedy)


def _load(seen: Environment) -> Iterator[Finding]:
    if seen.others is not None and seen.others > BUSY:
        problem = f"Other processes use {seen.others:.1f} of {seen.machine.affinity} cores just now."
        yield Finding("load", problem, "Close them, or wait; measured speeds are too low meanwhile.")


def _quota(seen: Environment) -> Iterator[Finding]:
    quota = seen.machine.quota
    if quota is not None and quota < seen.machine.affinity and quota != int(quota):
        problem = f"The container may use {quota:g} cores: {seen.machine.granted} threads leave a part of it."
        yield Finding("quota", problem, "Give it a whole number of cores, for example `docker run --cpus 2`.")


def _memory(seen: Environment) -> Iterator[Finding]:
    available = min(seen.machine.available_bytes, seen.machine.memory_limit or seen.machine.available_bytes)
    if available < LITTLE_MEMORY:
        problem = f"{available / 1e9:.1f} GB of memory are free."
        yield Finding("memory", problem, "Close programs, or use a smaller model or `precision=int8`.")
    if seen.machine.swap_used_bytes > seen.machine.memory_bytes / 10:
        problem = f"{seen.machine.swap_used_bytes / 1e9:.1f} GB are swapped to disk."
        yield Finding("memory", problem, "Close programs: weights that are read from disk are a hundred times slower.")


def _disk(seen: Environment) -> Iterator[Finding]:
    if seen.cache_problem is not None:
        problem = f"The cache folder cannot be used: {seen.cache_problem.removesuffix('.')}."
        yield Finding("disk", problem, "Let HANDLOOM_CACHE name a folder that you may write to.")
    elif seen.cache_free_bytes is not None and seen.cache_free_bytes < LITTLE_DISK:
        problem = f"{seen.cache_free_bytes / 1e9:.1f} GB are free for the cache in {seen.cache}."
        yield Finding("disk", problem, "Remove files, or let HANDLOOM_CACHE name a folder on another disk.")
    elif seen.cache_speed is not None and seen.cache_speed < SLOW_DISK:
        problem = f"The disk of {seen.cache} is slow: {seen.cache_speed / 1e6:.0f} MB/s."
        yield Finding("disk", problem, "Let HANDLOOM_CACHE name a folder on a local disk.")


def _power(seen: Environment) -> Iterator[Finding]:
    governor = seen.governor or ""
    if governor.startswith("powersave") and "pstate" not in governor:  # those drivers adapt in spite of the name
        problem = f"The processor stays at its lowest frequency: {governor}."
        yield Finding("power", problem, "Plug the computer in; `sudo cpupower frequency-set -g performance` sets it.")


def _cuda(seen: Environment) -> Iterator[Finding]:
    if seen.torch_cuda is not None:
        problem = f"PyTorch is built for CUDA {seen.torch_cuda}, which takes gigabytes and seconds, and is not used."
        yield Finding("torch", problem, "Install the CPU build; CONTRIBUTING.md says how.")


_RULES: tuple[Callable[[Environment], Iterator[Finding]], ...] = (
    *(_native, _instructions, _waiting, _openmp, _threads, _load),
    *(_quota, _memory, _disk, _power, _cuda),
)
