"""How the C files of this folder are compiled. Without torch or anything of ours: `setup.py` builds wheels with it."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent
BUILT = SOURCE / "built"
"""The libraries that came with the package, if it was installed from a wheel for this system."""

_COMMON = "-O3 -std=gnu11 -shared -fPIC -pthread -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wno-psabi"
VARIANTS = {
    "avx512_vnni": (
        ("avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl", "avx512_vnni"),
        "-march=x86-64-v4 -mavx512vnni -mprefer-vector-width=256",
    ),
    "avx2": (("avx2", "fma3", "f16c"), "-mavx2 -mfma -mf16c"),
    "portable": ((), ""),
}
"""Name: what the processor has to have, as `torch.cpu.get_capabilities` calls it, and the compiler's flags for it."""


def source_key(variant: str, more: str = "") -> str:
    """16 hex digits that stand for the C files, the flags of the variant, and `more`."""
    content = [f"{_COMMON} {VARIANTS[variant][1]}".encode(), more.encode()]
    content += [path.read_bytes() for path in sorted(SOURCE.glob("*.[ch]"))]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]


def compile_variant(compiler: list[str], variant: str, target: Path, extra_flags: str = "") -> str:
    """Write the library of a variant to `target`; the compiler's last words if it failed, or nothing."""
    units = [str(path) for path in sorted(SOURCE.glob("*.c"))]
    flags = shlex.split(f"{_COMMON} {VARIANTS[variant][1]} {extra_flags}")
    made = subprocess.run(
        [*compiler, *flags, *units, "-o", str(target), "-lm"], capture_output=True, text=True, check=False
    )
    return (made.stderr.strip().splitlines() or ["no message"])[-1] if made.returncode else ""
