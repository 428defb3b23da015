"""Pull a model of GPT-2's architecture from a hub into the models folder: complete and verified, or not at all.

Files gather in `.unfinished-NAME` next to the model's folder. It stays when a pull is interrupted, and the next one
resumes at the byte where it ended. Each file must have the size and checksum that the hub names. When all are there,
the folder is renamed, with an `origin.json` in it. Knows no HTTP; that is `hub`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from handloom import replacement, storage
from handloom.checkpoints import model_store
from handloom.checkpoints.formats import INDEX, choose_weights, other_format
from handloom.checkpoints.hf_config import read_config
from handloom.checkpoints.hf_tokenizer import SMALL, is_of_tokenizer, read_tokenizer
from handloom.checkpoints.hub import KEPT, Hub, NotReachedError, RemoteFile, Repository
from handloom.checkpoints.model_store import CONFIG, ORIGIN, PLAIN_NAMES, LocalModel, read_origin
from handloom.errors import CheckpointError, HandloomError

_FILE_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
"""A file in no inner folder, on any system."""
_SMALL_BYTES = 64 << 20
"""The largest tokenizer file that is fetched, whether it is read or not: reading may refuse what it contains."""
_ELSEWHERE = "Look for another `revision`, or another repository of the same model."
_SPACE = f"Free some space, or name a folder on another disk in HANDLOOM_MODELS. {KEPT}"


class UnsupportedModelError(CheckpointError):
    """The repository is not a model that we read; nothing of it is worth keeping."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} Its weights were not fetched.", remedy)


@dataclass(frozen=True)
class Progress:
    """Bytes fetched, bytes in all, and the file that is being fetched."""

    done: int
    total: int
    file: str


@dataclass(frozen=True)
class Pull:
    """The model, and how many of its bytes were fetched by this pull."""

    model: LocalModel
    fetched: int


def pull(
    name: str,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Pull:
    """Fetch the model `name`, or bring it up to date. Files that are here already are not fetched again.

    Args:
        name: a plain name such as `gpt2`, or `owner/name`.
        revision: branch, tag or commit; None: the main branch.
        endpoint: address of the hub; None: `$HF_ENDPOINT`, else Hugging Face's.
        on_progress: called after each piece.

    Raises ConfigError for a name or an address that cannot be one; CheckpointError: the hub, the network or the disk
    refuses; or the model is of another architecture, or damaged. What was fetched stays for the next pull, unless it is
    damaged or useless.
    """
    repository_name, folder, hub = model_store.repository_of(name), model_store.model_folder(name), Hub(endpoint)
    if folder.exists() and read_origin(folder) is None:
        raise CheckpointError(
            f"{folder} is there already, and was not pulled: its {ORIGIN} is missing or unreadable.",
            "It is left alone. Move it away to pull the model.",
        )
    with _explaining_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacement.owned(folder):
            download = _Download(hub, hub.repository(repository_name, revision or None), folder, on_progress)
            download.run(name)
    return Pull(model_store.local_model(folder), download.fetched)


@dataclass
class _Download:
    """The files of one repository on their way into one folder."""

    hub: Hub
    repository: Repository
    folder: Path
    on_progress: Callable[[Progress], None]
    fetched: int = 0
    done: int = 0
    total: int = 0

    @property
    def partial(self) -> Path:
        """Where files gather."""
        return storage.temporary_of(self.folder)

    def run(self, name: str) -> None:
        """Fetch every file and put the folder in its place."""
        self.partial.mkdir(exist_ok=True)
        try:
            files = self._choose()
        except UnsupportedModelError:
            shutil.rmtree(self.partial, ignore_errors=True)
            raise
        keep = {file.name for file in files} | {self._part(file).name for file in files}
        for path in self.partial.iterdir():
            if path.name not in keep:  # of another revision
                path.unlink()
        missing = [file for file in files if not self._is_here(file)]
        origin = read_origin(self.folder) or {}
        current = origin.get("revision") == self.repository.commit
        if not missing and current and all(file.matches(self.folder / file.name) for file in files):
            shutil.rmtree(self.partial, ignore_errors=True)
            return
        self._require_only_pulled(origin)
        self._fetch_all(missing)
        storage.write_json(self.partial / ORIGIN, self._origin(name, files))
        storage.move_into_place(self.partial, self.folder)

    def _choose(self) -> list[RemoteFile]:
        """The files of the model: the small ones, and its weights in the best form there is.

        The small ones are fetched, and read as the model will be read, so that no weights are fetched in vain. Raises
        UnsupportedModelError: reading would refuse the model, or a file is missing; CheckpointError: a file that cannot
        be verified, or did not arrive.
        """
        known, where = self.repository.files, self.repository.name
        if CONFIG not in known:
            what, remedy = other_format(known) or ("", f"Pull {', '.join(PLAIN_NAMES)}, or another GPT-2.")
            raise UnsupportedModelError(f"{where} does not have {CONFIG}, which Handloom needs{what}.", remedy)
        small = self._fetch_small([CONFIG])
        with self._refusing_as_reading():
            config = read_config(storage.read_json(self.partial / CONFIG), self.partial / CONFIG)
        with self._refusing_as_reading(its_remedy=True):
            weights = [choose_weights(known, where, _ELSEWHERE)]
        tokenizer = [
            name
            for name, file in known.items()
            if name in SMALL or (_FILE_NAME.fullmatch(name) and is_of_tokenizer(name) and file.bytes <= _SMALL_BYTES)
        ]
        index = [name for name in weights if name.endswith(INDEX)]
        small += self._fetch_small(index + tokenizer)
        with self._refusing_as_reading():
            if index:
                weights = self._shards(index[0])
            read_tokenizer(self.partial, config)
        return small + [self._file(name) for name in weights]

    @contextmanager
    def _refusing_as_reading(self, its_remedy: bool = False) -> Iterator[None]:
        """Turn an error of reading the files into an UnsupportedModelError that names the repository."""
        try:
            yield
        except UnsupportedModelError:
            raise
        except HandloomError as error:
            problem = error.problem.replace(str(self.partial), self.repository.name)
            raise UnsupportedModelError(problem, error.remedy if its_remedy else _ELSEWHERE) from None

    def _file(self, name: str) -> RemoteFile:
        file = self.repository.files[name]
        if not file.digest:
            raise CheckpointError(
                f"The hub does not name size and checksum of {name} in {self.repository.name}, which verifying needs.",
                "Name another hub as `endpoint`.",
            )
        return file

    def _shards(self, index: str) -> list[str]:
        """The files that an index of shards names, each once."""
        weight_map = storage.read_json(self.partial / index).get("weight_map")
        names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
        for name in names or [""]:
            if not _FILE_NAME.fullmatch(name) or name not in self.repository.files:
                raise UnsupportedModelError(
                    f"{index} of {self.repository.name} names a shard {name!r}, which is not in the repository.",
                    _ELSEWHERE,
                )
        return names

    def _require_only_pulled(self, origin: dict[str, Any]) -> None:
        """Raise CheckpointError if the folder that would be replaced holds files that were not pulled."""
        pulled = {ORIGIN, *(origin["files"] if isinstance(origin.get("files"), dict) else ())}
        others = sorted(set(os.listdir(self.folder)) - pulled) if self.folder.exists() else []
        if others:
            raise CheckpointError(
                f"{self.folder} would be replaced, and holds files that were not pulled: {', '.join(others[:5])}.",
                "Move them to another place, and pull again.",
            )

    def _is_here(self, file: RemoteFile) -> bool:
        """Whether the file is here already and undamaged; one in the older folder is taken from there."""
        target, older = self.partial / file.name, self.folder / file.name
        if file.matches(target):
            return True
        target.unlink(missing_ok=True)
        if not file.matches(older):
            return False
        try:
            os.link(older, target)
        except OSError:  # a file system without links
            shutil.copyfile(older, target)
        return True

    def _fetch_small(self, names: list[str]) -> list[RemoteFile]:
        files = [self._file(name) for name in dict.fromkeys(names)]
        self._fetch_all(files)
        return files

    def _fetch_all(self, files: list[RemoteFile]) -> None:
        """Fetch those of the files that are not here, after a look at the free space."""
        files = [file for file in files if not self._is_here(file)]
        self.done, self.total = sum(map(self._had, files)), sum(file.bytes for file in files)
        try:
            storage.require_space(self.partial, self.total - self.done)
        except CheckpointError as error:
            raise CheckpointError(error.problem, _SPACE) from None
        for file in files:
            self._fetch(file)

    def _fetch(self, file: RemoteFile) -> None:
        part, had = self._part(file), self._had(file)
        before = self.done - had

        def report(have: int) -> None:
            self.done = before + have
            self.on_progress(Progress(self.done, self.total, file.name))

        report(had)
        try:
            self.hub.fetch(self.repository, file, part, report)
        finally:
            self.fetched += max(0, self._had(file) - had)
        if not file.matches(part):
            part.unlink()
            raise CheckpointError(
                f"{file.name} of {self.repository.name} arrived damaged: it does not have the size and checksum "
                f"that {self.hub.endpoint} names ({file.bytes:,} bytes, {file.digest[:12]}...).",
                "It was removed; the same command fetches it again. If that repeats, try another `endpoint`.",
            )
        part.rename(self.partial / file.name)

    def _part(self, file: RemoteFile) -> Path:
        """The first bytes of a file. The name contains the checksum: they are useless for another file."""
        return self.partial / f"{file.name}.{file.digest[:16]}.part"

    def _had(self, file: RemoteFile) -> int:
        part = self._part(file)
        return part.stat().st_size if part.exists() else 0

    def _origin(self, name: str, files: list[RemoteFile]) -> dict[str, Any]:
        return {
            "name": name,
            "repository": self.repository.name,
            "revision": self.repository.commit,
            "endpoint": self.hub.endpoint,
            "pulled": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "files": {file.name: storage.describe(self.partial / file.name) for file in files},
        }


@contextmanager
def _explaining_errors(folder: Path) -> Iterator[None]:
    """Add the remedies for a disk that refuses, and for a machine without a network."""
    try:
        yield
    except NotReachedError as error:
        offline = (
            f"The model that is in {folder} can be used meanwhile."
            if folder.exists()
            else f"Without a network: pull on another machine and copy its folder to {folder}; it holds config.json, "
            "the tokenizer's files and the weights."
        )
        raise CheckpointError(error.problem, f"{error.remedy} {offline}") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = _SPACE if full else "Name a folder that you may write to in HANDLOOM_MODELS."
        raise CheckpointError(storage.explain_os_error(error, folder.parent).problem, remedy) from None
