"""What surrounds a computation on this machine, read and measured: see `Environment`. Judged by `findings`."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from handloom import runtime
from handloom.errors import HandloomError
from handloom.hardware import speed
from handloom.hardware.machine import Machine, machine
from handloom.hardware.usage import Meter

VARIABLES = re.compile(
    r"(OMP|GOMP|KMP|MKL|ATEN|DNNL|ONEDNN|MALLOC)_\w+|LD_PRELOAD|CC|HANDLOOM_(NATIVE|CACHE|MODELS)|OPENBLAS_NUM_THREADS"
)
"""Names of environment variables that change how fast something is computed, or whether."""
EXTRAS = {
    "gguf": "gguf",
    "data": "pyarrow",
    "tensorboard": "tensorboard",
    "eval": "lm_eval",
    "transformers, the reference of verify": "transformers",
}
"""What can be installed in addition: the package that shows whether it is."""
_OPENMP = re.compile(r"\S*/(lib(?:gomp|iomp5|omp)[\w.-]*\.(?:so|dylib)[\w.]*)$", re.MULTILINE)


@dataclass(frozen=True)
class Environment:
    """Everything that `doctor` shows and judges. Speeds are in bytes or operations a second; None is not known."""

    machine: Machine
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment, those that `VARIABLES` names."""
    threads: int = 1
    others: float | None = 0.0
    """Cores that other processes use just now."""
    governor: str | None = None
    """How the processor chooses its frequency: Linux's governor, and in parentheses its driver."""
    read_bandwidth: float | None = None
    matrix_speeds: Mapping[str, float | None] = field(default_factory=dict)
    compiler: str | None = None
    native: str | None = None
    """The variant of the C kernels."""
    native_problem: str | None = None
    openmp: tuple[str, ...] = ()
    """The OpenMP libraries in this process."""
    torch: str = ""
    torch_instructions: str = ""
    """What PyTorch's own kernels were built for and use here."""
    torch_cuda: str | None = None
    """The version of CUDA that PyTorch was built with."""
    cache: str = ""
    cache_problem: str | None = None
    cache_free_bytes: int | None = None
    cache_speed: float | None = None
    extras: Mapping[str, bool] = field(default_factory=dict)


def environment(root: Path = Path("/"), *, measure: bool = True) -> Environment:
    """Read all of it, and `measure` the speeds, which takes a few seconds; `root` holds `proc` and `sys`."""
    import torch

    from handloom.native import library as native

    here = machine(root)
    others = Meter(proc=root / "proc").others()
    threads = runtime.set_num_threads(None)
    library, compiler = native.available(), shlex.split(os.environ.get("CC") or "cc")[0]
    folder, problem, free, written = _cache(measure)
    types = ("fp32", "bf16", "int8") if measure else ()
    return Environment(
        machine=here,
        variables={name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)},
        threads=threads,
        others=others,
        governor=_governor(root / "sys/devices/system/cpu/cpu0/cpufreq"),
        read_bandwidth=speed.read_bandwidth(here.cache_bytes) if measure else None,
        matrix_speeds={name: speed.matrix_speed(name) for name in types},
        compiler=shutil.which(compiler),
        native=library.variant if library else None,
        native_problem=native.why_unavailable(),
        openmp=openmp_libraries(root),
        torch=str(torch.__version__),
        torch_instructions=runtime.versions()["instructions"],
        torch_cuda=torch.version.cuda,
        cache=folder,
        cache_problem=problem,
        cache_free_bytes=free,
        cache_speed=written,
        extras={name: importlib.util.find_spec(package) is not None for name, package in EXTRAS.items()},
    )


def openmp_libraries(root: Path = Path("/")) -> tuple[str, ...]:
    """The files of OpenMP libraries that this process has loaded; none where the system does not list them."""
    with suppress(OSError):
        maps = (root / "proc" / "self" / "maps").read_text("utf-8", "replace")
        return tuple(sorted({match.group().strip() for match in _OPENMP.finditer(maps)}))
    return ()


def _governor(folder: Path) -> str | None:
    with suppress(OSError):
        names = [(folder / f"scaling_{name}").read_text("ascii").strip() for name in ("governor", "driver")]
        return f"{names[0]} ({names[1]})"
    return None


def _cache(measure: bool) -> tuple[str, str | None, int | None, float | None]:
    """Folder, what is wrong with it, free bytes and speed of the cache."""
    folder = Path()
    try:
        folder = runtime.cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        written = speed.disk_speed(folder) if measure else None
        return str(folder), None, shutil.disk_usage(folder).free, written
    except (OSError, HandloomError) as error:
        problem = error.problem if isinstance(error, HandloomError) else f"{folder}: {error.strerror or error}"
        return str(folder), problem, None, None
