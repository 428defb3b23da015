"""Pull a model of GPT-2's architecture from a hub into the models folder: whole and verified, or not at all.

Files gather in a folder beside the model's own, `.unfinished-NAME`, which stays when a pull is interrupted:
the next one goes on at the byte where it ended. Each file has to have the size and the checksum that the hub
names. When all are there the folder is renamed, with an `origin.json` in it. Knows no HTTP (that is `hub`) and
not which files make a model (that is `wanted`).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from handloom import replacement, storage
from handloom.checkpoints.hub import Hub, NotReachedError, RemoteFile, Repository
from handloom.checkpoints.model_store import ORIGIN, LocalModel, model_folder, open_local, read_origin
from handloom.checkpoints.wanted import UnsupportedModelError, is_intact, repository_of, wanted_files
from handloom.errors import CheckpointError


@dataclass(frozen=True)
class Progress:
    """How far a pull is: bytes here, bytes in all, and the file that is on its way."""

    done: int
    total: int
    file: str


@dataclass(frozen=True)
class Pull:
    """What a pull came to: the model, and how many of its bytes came over the network now."""

    model: LocalModel
    fetched: int


def pull(
    name: str,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Pull:
    """Fetch a model, or bring it up to date. Files that are here already are not fetched again.

    Args:
        name: a plain name such as `gpt2`, or `owner/name`.
        revision: branch, tag or commit; None: the main branch.
        endpoint: address of the hub; None: `$HF_ENDPOINT`, else Hugging Face's.
        on_progress: told after each piece that arrived.

    Raises:
        ConfigError: a name or an address that cannot be one.
        CheckpointError: the hub, the network or the disk refuses; or it is no model of GPT-2's architecture,
            or damaged. What was fetched stays for the next time, unless it is damaged or of no use.
    """
    repository_name, folder, hub = repository_of(name), model_folder(name), Hub(endpoint)
    if folder.exists() and read_origin(folder) is None:
        raise CheckpointError(
            f"{folder} is there already, and was not pulled: it has no {ORIGIN} that can be read.",
            "It is left alone. Move it away to pull the model anew.",
        )
    aside = storage.temporary_of(folder)
    with _our_remedies(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacement.owned(folder):
            repository = hub.repository(repository_name, revision or None)
            aside.mkdir(exist_ok=True)
            fetched = _Gathering(hub, repository, aside, folder, on_progress).gather(name)
    return Pull(open_local(folder), fetched)


class _Gathering:
    """The files of one repository on their way into one folder."""

    def __init__(
        self, hub: Hub, repository: Repository, aside: Path, folder: Path, on_progress: Callable[[Progress], None]
    ) -> None:
        self.hub, self.repository, self.aside, self.folder = hub, repository, aside, folder
        self.on_progress = on_progress
        self.fetched = 0
        self.done = self.total = 0

    def gather(self, name: str) -> int:
        """Bring every file and put the folder in its place. Returns the bytes that were fetched."""
        try:
            wanted = wanted_files(self.repository, self._bring_now)
        except UnsupportedModelError:
            shutil.rmtree(self.aside, ignore_errors=True)
            raise
        self._clear({file.name for file in wanted} | {self._part(file).name for file in wanted})
        missing = [file for file in wanted if not self._here(file)]
        origin = read_origin(self.folder) or {}
        if not missing and self._is_current(origin, wanted):
            shutil.rmtree(self.aside, ignore_errors=True)
            return self.fetched
        self._require_only_pulled(origin)
        self._bring_all(missing)
        storage.write_json(self.aside / ORIGIN, self._origin(name, wanted))
        storage.move_into_place(self.aside, self.folder)
        return self.fetched

    def _require_only_pulled(self, origin: dict[str, Any]) -> None:
        """Raise CheckpointError if the folder that would be replaced holds files that were not pulled."""
        pulled = {ORIGIN, *(origin["files"] if isinstance(origin.get("files"), dict) else ())}
        others = sorted(set(os.listdir(self.folder)) - pulled) if self.folder.exists() else []
        if others:
            raise CheckpointError(
                f"{self.folder} would be replaced, and holds files that were not pulled: {', '.join(others[:5])}.",
                "Move them to another place, and pull again.",
            )

    def _here(self, file: RemoteFile) -> bool:
        """Whether the file is here already, whole; one that the older folder has is taken from there."""
        target, older = self.aside / file.name, self.folder / file.name
        if is_intact(target, file):
            return True
        target.unlink(missing_ok=True)
        if not is_intact(older, file):
            return False
        try:
            os.link(older, target)
        except OSError:  # a file system without links
            shutil.copyfile(older, target)
        return True

    def _is_current(self, origin: dict[str, Any], wanted: list[RemoteFile]) -> bool:
        """Whether the folder in its place is this very revision, undamaged."""
        return origin.get("revision") == self.repository.commit and all(
            is_intact(self.folder / file.name, file) for file in wanted
        )

    def _bring_all(self, wanted: list[RemoteFile]) -> None:
        """Fetch those of the files that are not here, after a look at the free space."""
        wanted = [file for file in wanted if not self._here(file)]
        here = {file.name: _size(self._part(file)) for file in wanted}
        self.done, self.total = sum(here.values()), sum(file.bytes for file in wanted)
        try:
            storage.require_space(self.aside, self.total - self.done)
        except CheckpointError as error:
            raise CheckpointError(error.problem, _SPACE) from None
        for file in wanted:
            self._bring(file, here[file.name])

    def _bring_now(self, file: RemoteFile) -> Path:
        """One of the small files that say which others are wanted."""
        self._bring_all([file])
        return self.aside / file.name

    def _bring(self, file: RemoteFile, had: int) -> None:
        part, before = self._part(file), self.done - had

        def tell(have: int) -> None:
            self.done = before + have
            self.on_progress(Progress(self.done, self.total, file.name))

        tell(had)
        try:
            self.hub.fetch(self.repository, file, part, tell)
        finally:
            self.fetched += max(0, _size(part) - had)
        if not is_intact(part, file):
            part.unlink()
            raise CheckpointError(
                f"{file.name} of {self.repository.name} arrived damaged: it does not have the size and checksum "
                f"that {self.hub.endpoint} names ({file.bytes:,} bytes, {file.digest[:12]}...).",
                "It was thrown away; the same command fetches it anew. If that happens again, try another --endpoint.",
            )
        part.rename(self.aside / file.name)

    def _part(self, file: RemoteFile) -> Path:
        """Where the first bytes of a file gather. The name holds the checksum: they are of no use for another."""
        return self.aside / f"{file.name}.{file.digest[:16]}.part"

    def _clear(self, keep: Iterable[str]) -> None:
        """Remove what belongs to another revision, before the free space is looked at."""
        for path in self.aside.iterdir():
            if path.name not in keep:
                path.unlink()

    def _origin(self, name: str, wanted: list[RemoteFile]) -> dict[str, Any]:
        return {
            "name": name,
            "repository": self.repository.name,
            "revision": self.repository.commit,
            "endpoint": self.hub.endpoint,
            "pulled": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "files": {file.name: storage.describe(self.aside / file.name) for file in wanted},
        }


@contextmanager
def _our_remedies(folder: Path) -> Iterator[None]:
    """Say what helps here: when the disk refuses, and how a model gets to a machine without a network."""
    try:
        yield
    except NotReachedError as error:
        raise CheckpointError(error.problem, f"{error.remedy} {_without_network(folder)}") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = _SPACE if full else "Name a folder that you may write to in HANDLOOM_MODELS."
        raise CheckpointError(storage.explain_os_error(error, folder.parent).problem, remedy) from None


_SPACE = (
    "Free some space, or name a folder on another disk in HANDLOOM_MODELS. What was fetched is kept: the same "
    "command goes on."
)


def _without_network(folder: Path) -> str:
    if folder.exists():
        return f"The model that is in {folder} can be used meanwhile."
    return (
        f"Without a network: pull on another machine and copy its folder to {folder}; it holds config.json, "
        "the tokenizer's files and the weights."
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
