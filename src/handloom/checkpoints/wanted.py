"""Which files of a repository make a model of GPT-2's architecture, and what each has to be.

Knows neither how files come here (that is `hub`) nor where they lie (that is `pulling`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handloom import storage
from handloom.checkpoints.formats import INDEX, choose_weights, way_on
from handloom.checkpoints.gpt2_config import read_config
from handloom.checkpoints.gpt2_tokenizer import SMALL, is_of_tokenizer, read_tokenizer
from handloom.checkpoints.hub import RemoteFile, Repository
from handloom.checkpoints.model_store import CONFIG
from handloom.errors import CheckpointError, ConfigError, HandloomError, did_you_mean

PLAIN_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
"""Models that have a name without an owner, and their repositories."""
_PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)
"""Names of files that lie in no inner folder, on any system."""
_SMALL_BYTES = 64 << 20
"""Files up to that size that say something of a tokenizer are fetched, read or not: reading has to see them."""
_ELSEWHERE = "Look for another revision (--revision), or another repository of the same model."


class UnsupportedModelError(CheckpointError):
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
    """The files that make the model: the small ones, and its weights in the best form there is.

    The small ones are fetched and read by the very rules by which the model will be read, so that no weights come
    for nothing.

    Args:
        repository: where to choose.
        bring: fetches one of the small files, and returns its place; all lie in one folder.

    Raises:
        UselessError: reading would refuse the model, or something lacks. No weights were brought then.
        CheckpointError: a file that could not be verified.
    """
    known = repository.files
    if CONFIG not in known:
        told = way_on(known)
        raise UnsupportedModelError(
            f"{repository.name} has no {CONFIG}, which Handloom needs{told[0] if told else ''}. Its weights were not "
            "fetched.",
            told[1] if told else f"Pull {', '.join(PLAIN_NAMES)}, or another model of GPT-2's architecture.",
        )
    small = [_verifiable(repository, CONFIG)]
    folder = bring(small[0]).parent
    with _as_reading_refuses(repository, folder):
        config = read_config(storage.read_json(folder / CONFIG), folder / CONFIG)
    with _as_reading_refuses(repository, folder, None):
        found = choose_weights(known, repository.name, _ELSEWHERE)
    weights = [found]
    if found.endswith(INDEX):
        small.append(_verifiable(repository, found))
        bring(small[-1])
        with _as_reading_refuses(repository, folder):
            weights = _shards(storage.read_json(folder / found), small[-1], repository)
    others = [
        name
        for name, file in known.items()
        if name in SMALL or (_PLAIN.fullmatch(name) and is_of_tokenizer(name) and file.bytes <= _SMALL_BYTES)
    ]
    small += [_verifiable(repository, name) for name in others]
    for file in small:
        bring(file)
    with _as_reading_refuses(repository, folder):
        read_tokenizer(folder, config)
    return [*small, *(_verifiable(repository, name) for name in weights)]


@contextmanager
def _as_reading_refuses(repository: Repository, folder: Path, remedy: str | None = _ELSEWHERE) -> Iterator[None]:
    """Say what reading has to say against the files, with the repository's name for the folder's.

    Args:
        repository: what is pulled.
        folder: where its small files gather.
        remedy: instead of reading's own; None leaves that.
    """
    try:
        yield
    except UnsupportedModelError:
        raise
    except HandloomError as error:
        problem = error.problem.replace(str(folder), repository.name)
        raise UnsupportedModelError(f"{problem} Its weights were not fetched.", remedy or error.remedy) from None


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


def _shards(listed: dict[str, Any], index: RemoteFile, repository: Repository) -> list[str]:
    """The files that an index of shards names, each once."""
    weight_map = listed.get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    for name in names or [""]:
        if not _PLAIN.fullmatch(name) or name not in repository.files:
            raise UnsupportedModelError(
                f"{index.name} of {repository.name} names a shard {name!r}, which the repository does not have.",
                _ELSEWHERE,
            )
    return names
