"""The models folder: what was pulled, or copied there by hand, and under which name.

Reads local files only. Knows neither the network (that is `hub`) nor what is inside a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom.errors import CheckpointError
from handloom.runtime import models_folder
from handloom.storage import UNFINISHED
from handloom.values import parse_json

ORIGIN = "origin.json"
"""The file in a pulled model's folder that says from where it came, with sizes and checksums."""
CONFIG = "config.json"
ENDPOINT = "https://huggingface.co"
"""The hub, if no other is named."""
_BETWEEN = "--"  # what stands for the slash of owner/name; the hub allows no name that holds it


@dataclass(frozen=True)
class LocalModel:
    """A model in the models folder. The origin is None for a folder that was copied there by hand."""

    name: str
    folder: Path
    bytes: int
    repository: str | None = None
    revision: str | None = None
    endpoint: str | None = None
    pulled: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for `handloom model list --json`."""
        return {**self.__dict__, "folder": str(self.folder)}


def model_folder(name: str) -> Path:
    """Where the model of that name lies in the models folder, whether it is there or not.

    Args:
        name: a plain name such as `gpt2`, whose folder bears it; or `owner/name`, which becomes `owner--name`.

    Raises:
        CheckpointError: the name would be no folder directly below the models folder.
    """
    plain = name.replace("/", _BETWEEN)
    if plain in ("", ".", "..") or "\0" in plain or Path(plain).name != plain:
        raise CheckpointError(
            f"{name!r} is not the name of a model.", "Models are called for example gpt2, or owner/name."
        )
    return models_folder() / plain


def name_of(folder: Path) -> str:
    """The name that `model_folder` turns into this folder."""
    return folder.name.replace(_BETWEEN, "/", 1)


def open_local(folder: Path) -> LocalModel:
    """Describe a folder of the models folder, from its `origin.json` if it has one."""
    origin = read_origin(folder) or {}
    return LocalModel(
        name_of(folder),
        folder,
        folder_bytes(folder),
        *(origin.get(key) for key in ("repository", "revision", "endpoint", "pulled")),
    )


def local_models() -> list[LocalModel]:
    """Every model in the models folder, sorted by name. A folder without `config.json` is none."""
    folders = [path for path in _folders() if not path.name.startswith(".") and (path / CONFIG).is_file()]
    return sorted(map(open_local, folders), key=lambda model: model.name)


def unfinished_pulls() -> list[tuple[str, Path]]:
    """Name and folder of every pull that was begun and not ended."""
    begun = [path for path in _folders() if path.name.startswith(UNFINISHED)]
    return sorted((name_of(path).removeprefix(UNFINISHED), path) for path in begun)


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What `origin.json` says; None where there is none, or none that can be read."""
    try:
        origin = parse_json((folder / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return origin if isinstance(origin, dict) else None


def folder_bytes(folder: Path) -> int:
    """The sizes of all files below a folder, together."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _folders() -> list[Path]:
    place = models_folder()
    try:
        return [path for path in place.iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(
            f"The models folder {place} cannot be read: {error.strerror or error}.",
            "Name another one in HANDLOOM_MODELS.",
        ) from None
