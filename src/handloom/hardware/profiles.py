"""What `handloom tune` found to be the fastest for a model, kept in the cache until the machine or a version changes.

CACHE/profiles/IDENTITY.json
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handloom import runtime, storage
from handloom.errors import HandloomError
from handloom.hardware.machine import Machine, machine
from handloom.native import library as native


@dataclass(frozen=True)
class Profile:
    """The fastest settings for one model on one machine."""

    model: str
    """What the user called it."""
    threads: int
    precision: str
    """Of a loaded model that generates: the fastest that keeps its quality bound."""
    training_threads: int | None = None
    training_precision: str | None = None
    measured: list[dict[str, Any]] = field(default_factory=list)
    """Every combination, with its speed."""

    def __str__(self) -> str:
        return f"{self.precision}, {self.threads} thread{'s' if self.threads > 1 else ''}"


def identity(shape: Mapping[str, Any], folders: Iterable[Path] = ()) -> str:
    """Names a model by its shape and the files of the folders that it is read from (path, size, time of change).

    Without folders, as for a preset, every model of that shape has the same name. Raises OSError.
    """
    files = [
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
        for folder in folders
        for path in ([folder] if folder.is_file() else sorted(folder.iterdir()))
        if path.is_file()
    ]
    return hashlib.sha256(json.dumps([dict(shape), files]).encode()).hexdigest()[:24]


def conditions(here: Machine | None = None) -> dict[str, Any]:
    """What a profile holds for: another value of any of these discards it."""
    here, found = here or machine(), runtime.versions()
    library = native.available()
    return {
        "processor": here.processor,
        "cores": here.granted,
        "instructions": list(here.instructions),
        "handloom": found["handloom"],
        "torch": found["torch"],
        "native": library.path.name if library else None,
    }


def keep(name: str, profile: Profile, holds: Mapping[str, Any] | None = None) -> Path:
    """Write the profile of the model of that `identity`. Raises HandloomError where the cache refuses."""
    path = _path(name)
    with storage.explaining_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    content = {"holds_for": dict(holds or conditions()), "profile": dataclasses.asdict(profile)}
    storage.write_output(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def find(
    name: str, on_note: Callable[[str], None] = lambda note: None, holds: Mapping[str, Any] | None = None
) -> Profile | None:
    """The profile of the model of that `identity`, if there is one that holds here.

    One that was made for another machine or other versions is removed, and `on_note` is called with the difference.
    """
    with suppress(HandloomError, OSError, TypeError, KeyError):
        path = _path(name)
        if not path.is_file():
            return None
        content, now = storage.read_json(path), dict(holds or conditions())
        profile, then = Profile(**content["profile"]), content["holds_for"]
        changed = [key for key in now if then.get(key) != now[key]]
        if not changed:
            return profile
        path.unlink()
        which = " and ".join(f"{key} ({_shown(then.get(key))}, now {_shown(now[key])})" for key in changed)
        on_note(
            f"The tuned settings of {profile.model} are discarded: another {which}. `handloom tune` measures again."
        )
    return None


def kept_profiles() -> list[Path]:
    """The files of all profiles, whatever they hold for."""
    with suppress(HandloomError, OSError):
        return sorted(_path("").parent.glob("*.json"))
    return []


def _path(name: str) -> Path:
    return runtime.cache_folder() / "profiles" / f"{name}.json"


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
