"""What this machine is and what it grants us: cores, memory, instruction sets, folders.

Knows nothing of models or text. torch is imported only inside the functions that ask it.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Where prepared data is kept: `$HANDLOOM_CACHE`, else the user's cache folder."""
    named = os.environ.get("HANDLOOM_CACHE")
    return Path(named) if named else _users_folder("XDG_CACHE_HOME", ".cache")


def models_folder() -> Path:
    """Where pulled models are kept: `$HANDLOOM_MODELS`, else `models` in the user's data folder.

    Not the cache: whoever clears that means to lose what can be made again, and a machine without a
    network cannot fetch a model again.
    """
    named = os.environ.get("HANDLOOM_MODELS")
    return Path(named) if named else _users_folder("XDG_DATA_HOME", ".local/share") / "models"


def _users_folder(variable: str, otherwise: str) -> Path:
    """Our folder in the one that the environment names, else in the usual one below the home folder."""
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / otherwise) / "handloom"


def granted_cores() -> int:
    """How many cores this process may use: its affinity, or less if a container's quota says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota))) if quota is not None else cores


def _cgroup_quota() -> float | None:
    """Cores that the container's quota allows (cgroup 2), or None where there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def use_threads(threads: int | None) -> int:
    """Set how many threads compute; None means all granted cores. Returns the number set."""
    import torch

    threads = threads or granted_cores()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def choose_precision(asked: str) -> str:
    """`fp32` or `bf16`: as asked, or for `auto` bf16 only where the processor computes it natively.

    Elsewhere bfloat16 is emulated and 5 to 35 times slower than float32.
    """
    if asked != "auto":
        return asked
    return "bf16" if has_native_bf16() else "fp32"


def has_native_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices by itself (AVX512-BF16 or AMX)."""
    import torch

    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def peak_memory_bytes() -> int:
    """The most memory this process has held so far, in bytes (its high-water mark)."""
    try:  # Linux's getrusage begins with the mark of whoever started this process
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)


def versions() -> dict[str, str]:
    """What decides the bits of a result beside the settings: versions and processor."""
    import numpy
    import torch

    from handloom import __version__

    return {
        "handloom": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }
