"""Which files of a repository make a model of GPT-2's architecture, and what each has to be.

Knows neither how files come here (that is `hub`) nor where they lie (that is `pulling`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handloom import storage
from handloom.checkpoints.gpt2_tokenizer import SMALL
from handloom.checkpoints.hub import RemoteFile, Repository
from handloom.checkpoints.pulled import CONFIG
from handloom.errors import CheckpointError, ConfigError, did_you_mean
from handloom.values import parse_json

PLAIN_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
"""Models that have a name without an owner, and their repositories."""
_NEEDED = ((CONFIG,), ("tokenizer.json", "vocab.json"), ("tokenizer.json", "merges.txt"))
"""Of each of these, one at least."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Best first. Each may instead be cut into shards, which `NAME.index.json` lists."""
_ELSEWHERE = "Look for another revision (--revision), or another repository of the same model."


class UselessError(CheckpointError):
    """The repository is not what we can use; nothing of it is worth keeping."""


def repository_of(name: str) -> str:
    """The repository, `owner/name`, that a model's name stands for.

    Raises:
        ConfigError: when it is neither a plain name that we know nor of that form.
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


def wanted_files(repository: Repository, bring: Callable[[RemoteFile], Path]) -> list[RemoteFile]:
    """The files that make the model: its config, its tokenizer, and its weights in the best form there is.

    Args:
        repository: where to choose.
        bring: fetches one of the small files that decide, and returns its place.

    Raises:
        UselessError: another architecture, or something lacks. No weights were brought then.
        CheckpointError: a file that could not be verified.
    """
    known = repository.files
    for names in _NEEDED:
        if not known.keys() & set(names):
            raise UselessError(
                f"{repository.name} has no {' and no '.join(reversed(names))}, which Handloom needs. Its weights were "
                "not fetched.",
                "Pull a repository that has config.json, and tokenizer.json or vocab.json and merges.txt.",
            )
    small = [_verifiable(repository, name) for name in (CONFIG, *SMALL) if name in known]
    _require_gpt2(_json(bring(small[0]), repository), repository)
    for name in WEIGHTS:
        if name in known:
            return [*small, _verifiable(repository, name)]
        if f"{name}.index.json" in known:
            index = _verifiable(repository, f"{name}.index.json")
            shards = _shards(_json(bring(index), repository), index, repository)
            return [*small, index, *(_verifiable(repository, shard) for shard in shards)]
    raise UselessError(
        f"{repository.name} has no weights that Handloom reads: neither {WEIGHTS[0]} nor {WEIGHTS[1]}, whole or "
        "in shards.",
        "Look for another repository of the same model.",
    )


def is_intact(path: Path, file: RemoteFile) -> bool:
    """Whether a file on disk has the size and the checksum that the hub names."""
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    return storage.sha256(path) == file.sha256 if file.sha256 else git_id(path) == file.git


def git_id(path: Path) -> str:
    """Git's object id of a file, by which the hub names the files that are not in large-file storage."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _verifiable(repository: Repository, name: str) -> RemoteFile:
    file = repository.files[name]
    if not file.digest:
        raise CheckpointError(
            f"The hub tells no size or no checksum of {name} in {repository.name}, so it could not be verified.",
            "Name another hub with --endpoint.",
        )
    return file


def _require_gpt2(config: dict[str, Any], repository: Repository) -> None:
    """Refuse another architecture by name."""
    kind, classes = config.get("model_type"), config.get("architectures")
    if kind is None and isinstance(classes, list) and classes and str(classes[0]).startswith("GPT2"):
        return  # the oldest repositories name only the class
    if kind != "gpt2":
        raise UselessError(
            f"{repository.name} is a model of the kind {kind!r}; Handloom reads 'gpt2' only. Its weights were "
            "not fetched.",
            f"Pull {', '.join(PLAIN_NAMES)}, or another model of GPT-2's architecture.",
        )


def _shards(listed: dict[str, Any], index: RemoteFile, repository: Repository) -> list[str]:
    """The files that an index of shards names, each once."""
    weight_map = listed.get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    for name in names or [""]:
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII) or name not in repository.files:
            raise UselessError(
                f"{index.name} of {repository.name} names a shard {name!r}, which the repository does not have.",
                _ELSEWHERE,
            )
    return names


def _json(path: Path, repository: Repository) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UselessError(f"{path.name} of {repository.name} is not a JSON object.", _ELSEWHERE)
    return found
