"""The error for a package that is missing or does not load, with the command that installs it."""

from __future__ import annotations

import re
import shlex
from importlib import metadata

from handloom.errors import ConfigError, HandloomError

_TORCH_INDEX = " --index-url https://download.pytorch.org/whl/cpu"


def import_failure(
    error: ImportError | OSError, needed_by: str = "Handloom", kind: type[HandloomError] = ConfigError
) -> HandloomError | None:
    """The error, of that kind, for one that was raised while a package was imported; None for any other.

    `needed_by` begins its sentence: what cannot be done without the package.
    """
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package, problem, force = error.name.partition(".")[0], "which is not installed", ""
    else:
        package, problem, force = (_being_imported(error), f"which does not load ({error})", "--force-reinstall ")
    if not package or package == "handloom":
        return None
    index = _TORCH_INDEX if package == "torch" else ""
    return kind(
        f"{needed_by} needs the package {package}, {problem}.",
        "Install it into the environment that Handloom runs in: "
        f"python -m pip install {force}{shlex.quote(_requirement(package))}{index}",
    )


def _being_imported(error: BaseException) -> str:
    """The first foreign package whose module was executed when the error was raised; empty if none was."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and name not in ("handloom", "__main__", "importlib"):
            return name
        trace = trace.tb_next
    return ""


def _requirement(package: str) -> str:
    """The package, with its versions from our metadata if Handloom always needs it."""
    try:
        wanted = metadata.requires("handloom") or []
    except metadata.PackageNotFoundError:
        wanted = []
    found = (line.partition(";")[0].strip() for line in wanted if "extra ==" not in line)
    return next((line for line in found if re.fullmatch(rf"{re.escape(package)}(?![\w.-]).*", line)), package)
