"""The models folder: the models in it, their names, and where each was fetched from.

Reads local files only; `hub` is the network, `pull` fills the folder. Knows nothing of what is inside a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom.errors import CheckpointError, ConfigError, did_you_mean
from handloom.runtime import models_folder
from handloom.storage import UNFINISHED
from handloom.values import parse_json

ORIGIN = "origin.json"
"""The file of a pulled model with its repository, revision, and the size and SHA-256 of each file."""
CONFIG = "config.json"
ENDPOINT = "https://huggingface.co"
"""The hub, if no other is named."""
PLAIN_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
"""Models with a name without an owner, and their repositories."""
_SLASH = "--"
"""The slash of owner/name in the name of a folder; no name on the hub contains it."""


@dataclass(frozen=True)
class LocalModel:
    """A model in the models folder. Without a repository for a folder that was copied there by hand."""

    name: str
    folder: Path
    bytes: int
    repository: str | None = None
    revision: str | None = None
    endpoint: str | None = None
    pulled: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**self.__dict__, "folder": str(self.folder)}


def model_folder(name: str) -> Path:
    """The folder of the model `name` (gpt2, or owner/name), whether it exists or not.

    Raises CheckpointError for a name that is not a folder directly below the models folder.
    """
    plain = name.replace("/", _SLASH)
    if plain in ("", ".", "..") or "\0" in plain or Path(plain).name != plain:
        raise CheckpointError(
            f"{name!r} is not the name of a model.", "Models are called for example gpt2, or owner/name."
        )
    return models_folder() / plain


def repository_of(name: str) -> str:
    """The repository, `owner/name`, of a model's name.

    Raises ConfigError for a name that is neither one of `PLAIN_NAMES` nor of that form.
    """
    if name in PLAIN_NAMES:
        return PLAIN_NAMES[name]
    part = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
    if re.fullmatch(f"{part}/{part}", name, re.ASCII) and not re.search(r"--|\.\.", name) and len(name) <= 96:
        return name
    raise ConfigError(
        f"There is no model called {name!r} to pull. {did_you_mean(name, PLAIN_NAMES)}".rstrip(),
        f"Plain names are {', '.join(PLAIN_NAMES)}; any other model is called owner/name, as on the hub's pages.",
    )


def local_model(folder: Path) -> LocalModel:
    """Describe a folder of the models folder, from its `origin.json` if it has one."""
    origin = read_origin(folder) or {}
    fetched = {key: origin.get(key) for key in ("repository", "revision", "endpoint", "pulled")}
    return LocalModel(name_of(folder), folder, folder_bytes(folder), **fetched)


def local_models() -> list[LocalModel]:
    """Every folder with a `config.json` in the models folder, sorted by name."""
    folders = [path for path in _folders() if not path.name.startswith(".") and (path / CONFIG).is_file()]
    return sorted(map(local_model, folders), key=lambda model: model.name)


def unfinished_pulls() -> list[tuple[str, Path]]:
    """Name and folder of every pull that was interrupted."""
    unfinished = [path for path in _folders() if path.name.startswith(UNFINISHED)]
    return sorted((name_of(path).removeprefix(UNFINISHED), path) for path in unfinished)


def read_origin(folder: Path) -> dict[str, Any] | None:
    """The `origin.json` of a folder; None where it is missing or unreadable."""
    try:
        origin = parse_json((folder / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return origin if isinstance(origin, dict) else None


def folder_bytes(folder: Path) -> int:
    """The total size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def name_of(folder: Path) -> str:
    """The inverse of `model_folder`."""
    return folder.name.replace(_SLASH, "/", 1)


def _folders() -> list[Path]:
    place = models_folder()
    try:
        return [path for path in place.iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(
            f"The models folder {place} cannot be read: {error.strerror or error}.", "Name another in HANDLOOM_MODELS."
        ) from None
