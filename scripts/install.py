"""Install Handloom into the virtual environment that runs this file, under constraints.txt.

It differs from a plain `pip install -e .` in one thing: on Linux it keeps CUDA builds of torch out, with
their gigabytes of libraries for a graphics card that is not there. It asks pip which torch it would take,
and takes the CPU build of PyTorch itself when the answer is a CUDA build.

Knows only the standard library and pip: it runs before anything else is installed.
Usage: .venv/bin/python scripts/install.py [--dev]
Environment: HANDLOOM_TORCH_INDEX names an index with CPU builds; HANDLOOM_ALLOW_CUDA=1 takes any build.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
USUAL_INDEX = "pip's package index"
CUDA_PACKAGES = ("nvidia-", "cuda-", "triton", "pytorch-triton")

# Runs pip with these arguments; gives back (exit code, standard output, the last lines of standard error).
Pip = Callable[[Sequence[str], bool], "tuple[int, str, str]"]


class InstallError(Exception):
    """What went wrong and what to do about it, in one paragraph."""


def run_pip(arguments: Sequence[str], show: bool) -> tuple[int, str, str]:
    """Run this interpreter's pip; with show=True its progress goes to the terminal."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, stdout=None if show else subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("WARNING: Location")]
    return result.returncode, result.stdout or "", "\n".join(lines[-4:])


def needs_cuda(report: Mapping[str, Any], machine: str) -> bool:
    """Whether pip's installation report names a CUDA (or ROCm) build of torch for this kind of machine."""
    for item in report["install"]:
        facts = item["metadata"]
        if facts["name"].lower().replace("_", "-").startswith(CUDA_PACKAGES):
            return True
        if facts["name"].lower() != "torch":
            continue
        if facts["version"].partition("+")[2].startswith(("cu", "rocm")):
            return True
        for wanted in facts.get("requires_dist", []):
            name, _, marker = wanted.partition(";")
            elsewhere = "extra ==" in marker or ("platform_machine" in marker and machine not in marker)
            if name.strip().lower().startswith(CUDA_PACKAGES) and not elsewhere:
                return True
    return False


def torch_index(torch: str, system: str, machine: str, environment: Mapping[str, str], pip: Pip) -> str | None:
    """The index to take torch from; None is the one that pip uses anyway.

    Raises: InstallError when pip cannot say what it would install.
    """
    chosen = environment.get("HANDLOOM_TORCH_INDEX")
    if chosen:
        return chosen
    if system != "Linux" or environment.get("HANDLOOM_ALLOW_CUDA") == "1":
        return None
    # Only torch itself is asked about: its own list of requirements tells a CUDA build. pip 25.3 and newer
    # read that list alone where the index offers it (PEP 658); an older pip downloads the whole wheel.
    question = ["install", "--dry-run", "--quiet", "--report", "-", "--no-deps", torch]
    code, output, complaint = pip(question, False)
    if code != 0:
        raise InstallError(no_torch(torch, USUAL_INDEX, complaint))
    return CPU_INDEX if needs_cuda(json.loads(output), machine) else None


def no_torch(torch: str, source: str, complaint: str) -> str:
    """The paragraph for a torch that cannot be had: what, from where, and the ways out."""
    here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    what = (
        f"{torch} for {here} could not be had from {source}. What to do: check the network and run the "
        f"command again; or name another index that holds CPU builds, a mirror for instance, in "
        f"HANDLOOM_TORCH_INDEX; or copy a wheel of this version here by hand, install it with "
        f"`{sys.executable} -m pip install WHEEL`, and run the command again; or accept a CUDA build of "
        f"several GB with HANDLOOM_ALLOW_CUDA=1."
    )
    paragraph = textwrap.fill(what, 100, break_long_words=False, break_on_hyphens=False)
    return f"{paragraph}\npip said: {complaint}"


def install_torch(torch: str, environment: Mapping[str, str], pip: Pip, installed: str | None) -> None:
    """Bring torch unless the wanted version, of whatever build, is there already."""
    if installed is not None and installed.partition("+")[0] == torch.partition("==")[2]:
        return
    index = torch_index(torch, platform.system(), platform.machine(), environment, pip)
    # Without dependencies: a CPU index need not hold the versions that we pin. They come in the last step.
    arguments = ["install", "--no-deps", torch]
    if index is not None:
        print(f"Taking a CPU build of torch from {index}", flush=True)
        # One retry: without the network, or behind a firewall, the answer should not take minutes.
        arguments += ["--index-url", index, "--retries", "1", "--timeout", "30"]
    code, _, complaint = pip(arguments, True)
    if code != 0:
        raise InstallError(no_torch(torch, index or USUAL_INDEX, complaint))


def step(say: str, arguments: Sequence[str], pip: Pip) -> None:
    print(say, flush=True)
    code, _, complaint = pip(arguments, True)
    if code != 0:
        raise InstallError(f"This step failed: {say}\npip said: {complaint}\nRun the command again to go on from here.")


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main(arguments: Sequence[str], pip: Pip = run_pip) -> None:
    if sys.prefix == sys.base_prefix:
        raise InstallError(
            "This is not a virtual environment. Run `make install`, or create one: python3 -m venv .venv"
        )
    under = ["--constraint", str(CONSTRAINTS)]
    torch = next(line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
    extras = "[dev]" if "--dev" in arguments else ""
    step("1/3 pip and setuptools", ["install", "--quiet", "--upgrade", *under, "pip", "setuptools"], pip)
    print(f"2/3 {torch}", flush=True)
    install_torch(torch, os.environ, pip, installed_version("torch"))
    # Our own setuptools builds the package: an isolated build would fetch another one, of any version.
    package = ["install", "--quiet", "--no-build-isolation", *under, "--editable", f"{ROOT}{extras}"]
    step(f"3/3 handloom{extras} and what it needs (a minute or two the first time)", package, pip)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InstallError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run the command again to go on.")
