"""What Handloom chooses on a machine where the user does not, and why."""

from __future__ import annotations

from handloom import runtime
from handloom.console import pluralize
from handloom.hardware.environment import Environment
from handloom.hardware.profiles import kept_profiles
from handloom.quantization.precision import resolve_precision


def choices(seen: Environment) -> dict[str, str]:
    """Each decision with its reason."""
    asked = seen.variables.get("OMP_NUM_THREADS")
    threads = f"{seen.threads}, " + ("as OMP_NUM_THREADS says" if asked else "one for each granted core")
    kernels = f"C kernels ({seen.native})" if seen.native else "PyTorch"
    trained = runtime.choose_precision("auto")
    native = "the processor has" if trained == "bf16" else "the processor emulates"
    profiles = kept_profiles()
    return {
        "threads": threads,
        "new tokens": kernels,
        "precision auto": resolve_precision("auto"),
        "training": f"{trained}: {native} bfloat16 products",
        "profiles": pluralize(len(profiles), "model") + " tuned"
        if profiles
        else "none: `handloom tune MODEL` makes one",
    }
