"""The machine: cores, memory, instruction sets, folders, paths. torch is imported only inside functions."""

from __future__ import annotations

import glob
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from handloom import cgroups
from handloom.errors import ConfigError, require_type
from handloom.values import plain

_DONTNEED = 4
"""madvise's MADV_DONTNEED."""


def user_path(given: str | Path, what: str) -> Path:
    """A path as a user gave it: `expanded`."""
    return Path(expanded(given, what))


def expanded(given: str | Path, what: str) -> str:
    """The text of a path as a user gave it, the one way in for flags, settings, environment and Python callers.

    `~` and `~name` at the beginning stand for home folders, as in a shell; a file of such a name in the current
    folder is reached by `./~name`, and without where that user does not exist. An error calls the path "for `what`".

    Raises ConfigError for an empty path, one that no file can have, or a home folder that is not known.
    """
    require_type(given, f"The path for {what}", (str, bytes, os.PathLike), "a str or a Path")
    text = os.fsdecode(given)
    if not text.strip():
        raise ConfigError(
            f"The path for {what} is empty.",
            'A shell variable that is not set is empty, as in "$NAME". Give a path (. is the current folder), or leave '
            "it out.",
        )
    if "\0" in text:
        raise ConfigError(f"The path for {what} contains a NUL character.", "File names cannot; check it.")
    path = os.path.expanduser(text)
    if path == text and text.startswith("~"):
        name = Path(text).parts[0]
        if name == "~":
            raise _homeless(f"The path {text} for {what}")
        if not os.path.lexists(text):
            raise ConfigError(
                f"The path {text} for {what} begins with the home folder of {name[1:]}, and there is no such user.",
                f"Check the name; a file whose own name begins so is ./{text}.",
            )
    return path


def is_there(path: str) -> bool:
    """Whether a path leads to something, or a glob matches something."""
    return os.path.exists(path) or (glob.has_magic(path) and any(glob.iglob(path, recursive=True)))


def found_from(name: str, folders: Iterable[Path]) -> str:
    """A path that was given in another folder: itself if it exists, else that in the first folder where it does."""
    return next(filter(is_there, (name, *(str(folder / name) for folder in folders))), name)


def _homeless(what: str) -> ConfigError:
    return ConfigError(
        f"{what} needs your home folder, which is not known: HOME is not set, and this user has no entry among the "
        "users of this machine.",
        "Set HOME, or name folders in full: HANDLOOM_CACHE for prepared data, HANDLOOM_MODELS for models.",
    )


def cache_folder() -> Path:
    """Where prepared data is kept: `$HANDLOOM_CACHE`, else the user's cache folder."""
    return _folder("HANDLOOM_CACHE", "XDG_CACHE_HOME", ".cache/handloom")


def models_folder() -> Path:
    """Where pulled models are kept: `$HANDLOOM_MODELS`, else `models` in the user's data folder.

    Not in the cache: that is for what can be made again, and a machine without a network cannot fetch a model again.
    """
    return _folder("HANDLOOM_MODELS", "XDG_DATA_HOME", ".local/share/handloom/models")


def _folder(ours: str, users: str, below_home: str) -> Path:
    """`$ours`, else our folder in `$users`, else below the home folder; freedesktop.org ignores a relative `$users`."""
    if (chosen := os.environ.get(ours)) is not None:
        return user_path(chosen, ours)
    base = Path(os.environ.get(users, ""))
    if base.is_absolute():
        return base / below_home[below_home.index("handloom") :]
    try:
        return Path.home() / below_home
    except RuntimeError:
        raise _homeless(f"Without {ours} this") from None


def available_cores() -> int:
    """How many cores this process may use: its affinity, or less by the quota of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroups.limits().cores
    return cores if quota is None else max(1, min(cores, int(quota)))


def memory_bytes() -> int:
    """All memory that this process could have: the machine's with its swap, or less by the limit of a container."""
    import psutil

    total = int(psutil.virtual_memory().total) + int(psutil.swap_memory().total)
    return min(total, cgroups.limits().memory_bytes or total)


def available_memory() -> int:
    """Bytes that this process could still take: of the machine's free memory, or less by the limit of a container."""
    import psutil

    available, limit = int(psutil.virtual_memory().available), cgroups.limits().memory_bytes
    return available if limit is None else min(available, limit - int(psutil.Process().memory_info().rss))


@contextmanager
def keeping_freed_memory(needed: int) -> Iterator[bool]:
    """During the block, keep the memory of tensors that are freed for the next ones; yields whether that is so.

    glibc returns large blocks to the system when they are freed, so that each page of the next tensor costs a page
    fault. Here `mallopt` has it keep them, and the block's end returns what is free. Nothing is changed where
    `can_keep_memory` is false, or fewer than `needed` bytes are available.
    """
    libc = _glibc() if can_keep_memory() and available_memory() >= needed else None
    try:
        yield libc is not None and all(libc.mallopt(option, value) for option, value in _KEEP.items())
    finally:
        if libc is not None:
            for option, value in _RETURN.items():
                libc.mallopt(option, value)
            libc.malloc_trim(0)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEEP = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**26}
"""No block below 1 GB is mapped by itself, and the heap, which grows by 64 MB, never shrinks (mallopt(3))."""
_RETURN = {_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26, _TOP_PAD: 2**17}
"""Where glibc's own thresholds, which follow the blocks that a program frees, end at most."""


def can_keep_memory() -> bool:
    """Whether there is glibc, and the environment neither sets its thresholds nor HANDLOOM_KEEP_MEMORY=0."""
    own = any(name.startswith("MALLOC_") or "glibc.malloc" in value for name, value in os.environ.items())
    return not own and os.environ.get("HANDLOOM_KEEP_MEMORY") != "0" and _glibc() is not None


def _glibc() -> Any:
    """The C library of this process, if it is glibc."""
    import ctypes

    with suppress(OSError, ValueError, AttributeError):
        if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            libc = ctypes.CDLL(None)
            return libc if libc.mallopt and libc.malloc_trim else None
    return None


def set_num_threads(threads: int | None) -> int:
    """Set how many threads compute; None means $OMP_NUM_THREADS, else all available cores. Returns the number set."""
    import torch

    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    from_openmp = int(outermost) if outermost.isdecimal() else 0
    threads = plain(threads) or from_openmp or available_cores()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def choose_precision(asked: str) -> str:
    """`fp32` or `bf16`; `auto` is bf16 where it is native: emulated it is 5 to 35 times slower than float32."""
    return asked if asked != "auto" else "bf16" if has_native_bf16() else "fp32"


def has_native_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices by itself (AVX512-BF16 or AMX)."""
    import torch

    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def peak_memory_bytes() -> int:
    """The peak resident memory of this process, in bytes."""
    with suppress(OSError, ValueError, IndexError):  # Linux's getrusage begins with the peak of the parent process
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)


def release_pages(address: int, length: int) -> None:
    """Take pages of a mapped file out of this process's memory, Linux only; they are read again when needed.

    Nothing may have been written to them: that would be lost. Memory that is not a file's is left alone.
    """
    import ctypes
    import mmap

    first, last = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, (address + length) // mmap.PAGESIZE * mmap.PAGESIZE
    with suppress(OSError, ValueError), open("/proc/self/maps", encoding="utf-8") as maps:
        for span, _, _, _, inode in (line.split(maxsplit=5)[:5] for line in maps):
            start, end = (int(bound, 16) for bound in span.split("-"))
            if inode != "0" and start <= first < last <= end:
                ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)


def versions() -> dict[str, str]:
    """What decides the bits of a result in addition to the settings: versions and processor."""
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
