"""Files and folders that are either whole or absent: written aside, synced, renamed, and checked when read.

Knows nothing of models. A folder gets a `manifest.json` with the size and SHA-256 of every file in it, written
last; a folder without a manifest, or that disagrees with it, is incomplete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from handloom.errors import CheckpointError, ConfigError, IncompleteError
from handloom.values import parse_json

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished-"
HEADROOM = 1 << 20
"""Bytes kept free beyond the files themselves: room for the folder's own bookkeeping."""


@contextmanager
def atomic_folder(target: Path, expected_bytes: int) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `target` in one step when the block ends well.

    Args:
        target: the folder to make; an older one of that name is replaced.
        expected_bytes: what will be written, to check the free space first.

    Raises:
        CheckpointError: no space, no permission, or any other refusal of the disk. Whatever stood
            at `target` before is untouched then, and the temporary folder is gone.
    """
    aside = temporary_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        require_space(target.parent, expected_bytes)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        yield aside
        write_json(aside / MANIFEST, {path.relative_to(aside).as_posix(): describe(path) for path in _files(aside)})
        move_into_place(aside, target)
    except OSError as error:
        raise explain_os_error(error, target) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def temporary_of(target: Path) -> Path:
    """Where a folder is filled before it becomes `target`."""
    return target.with_name(f"{UNFINISHED}{target.name}")


def previous_of(target: Path) -> Path:
    """Where a folder lies for the moment in which another takes its place."""
    return target.with_name(f".previous-{target.name}")


def move_into_place(aside: Path, target: Path) -> None:
    """Sync a filled folder to the disk and let it become `target` in one step; an older one there is removed.

    Raises:
        OSError: when the disk refuses; `target` is then as it was.
    """
    for path in _files(aside):
        sync(path)
    for folder in sorted({path.parent for path in aside.rglob("*")}, reverse=True):
        sync(folder)
    older = previous_of(target)
    if target.exists():
        os.rename(target, older)
    try:
        os.rename(aside, target)
    except BaseException:
        recover(target)
        raise
    sync(target.parent)
    shutil.rmtree(older, ignore_errors=True)


def recover(target: Path) -> None:
    """Put back the folder `target` if a process was killed while it exchanged it; this process is its only owner."""
    older = previous_of(target)
    if target.exists():
        shutil.rmtree(older, ignore_errors=True)
    elif older.exists():
        os.rename(older, target)


def require_space(folder: Path, needed: int) -> None:
    """Raise CheckpointError unless `needed` bytes and a little more are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if free < needed + HEADROOM:
        raise CheckpointError(
            f"No space to write to {folder}: {_megabytes(needed)} are needed and {_megabytes(free)} are free.",
            "Free some space, keep fewer checkpoints (--keep-checkpoints 1), or choose another folder. "
            "What was saved before is untouched.",
        )


@contextmanager
def explaining_os_errors(target: Path) -> Iterator[None]:
    """Turn an OSError of the block into the CheckpointError that `explain_os_error` makes of it."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, target) from error


def explain_os_error(error: OSError, target: Path) -> CheckpointError:
    """What to tell a person when the disk says no."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(
            f"The disk became full while writing {target}.",
            "Free some space and use the same command again; a run that has a checkpoint goes on with --resume. What "
            "was saved before is untouched.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CheckpointError(
            f"Not allowed to write {target} ({error.strerror}).",
            "Choose a folder that you may write to, for example with --run.",
        )
    return CheckpointError(
        f"Could not write {target}: {error.strerror or error}.", "Check the disk, or choose another folder."
    )


def verify_folder(folder: Path, needs: Iterable[str] = ()) -> None:
    """Compare every file of `folder` with its manifest.

    Args:
        folder: written by `atomic_folder`.
        needs: files that the manifest has to know, whatever else it names.

    Raises:
        IncompleteError: naming the file that is missing, short, long or altered.
    """
    manifest = read_json(folder / MANIFEST)
    for name in dict.fromkeys((*needs, *manifest)):
        path, entry = folder / name, manifest.get(name)
        if not isinstance(entry, dict) or {"bytes", "sha256"} - entry.keys():
            raise IncompleteError(f"{folder} is damaged: its {MANIFEST} says nothing of {name}.", _LAST_GOOD)
        if not path.is_file():
            raise IncompleteError(f"{folder} is torn: its file {name} is missing.", _LAST_GOOD)
        if path.stat().st_size != entry["bytes"]:
            raise IncompleteError(
                f"{folder} is torn: its file {name} has {path.stat().st_size} bytes instead of {entry['bytes']}.",
                _LAST_GOOD,
            )
        if _readable_sha256(path) != entry["sha256"]:
            raise IncompleteError(
                f"{folder} is damaged: its file {name} does not have the checksum it was written with.", _LAST_GOOD
            )


_LAST_GOOD = "Copy it again from where it came; of a run, an earlier checkpoint can be used instead."


def describe(path: Path) -> dict[str, Any]:
    """Size and checksum of a file, for a manifest."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _readable_sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", _LAST_GOOD) from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


@contextmanager
def output_file(path: Path, inputs: Iterable[str | Path] = (), *, binary: bool = False) -> Iterator[IO[Any]]:
    """An open file that becomes `path` in one step when the block ends without an error.

    Args:
        path: the file to make or replace; a link stays a link, and a device or a pipe is written as it is.
        inputs: files and folders that the command reads; none of them is written over.
        binary: open it for bytes instead of UTF-8 text.

    Raises:
        ConfigError: `path` is one of the inputs, lies in one of them, or is a folder.
        CheckpointError: the disk refuses. An older file at `path` is unchanged then.
    """
    require_not_input(path, inputs)
    how: dict[str, Any] = {} if binary else {"encoding": "utf-8", "newline": "\n"}
    mode = "wb" if binary else "w"
    aside = None
    try:
        if _is_stream(path):
            with path.open(mode, **how) as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        aside = target.with_name(f"{UNFINISHED}{target.name}-{os.getpid()}")
        with aside.open(mode, **how) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(target, aside)
        os.replace(aside, target)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        if aside is not None:
            with suppress(OSError):  # which would stand in the place of the error that led here
                aside.unlink()


def write_output(path: Path, content: str | bytes, inputs: Iterable[str | Path] = ()) -> None:
    """Write a file at once, as `output_file` does."""
    with output_file(path, inputs, binary=isinstance(content, bytes)) as file:
        file.write(content)


def require_not_input(path: Path, inputs: Iterable[str | Path]) -> None:
    """Raise ConfigError if writing the file `path` would replace something that the command reads, or a folder."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, not a file.", "Name a file in it.")
    if not path.exists():
        return
    for name in inputs:
        if is_within(path, Path(name)) or (Path(name).exists() and os.path.samefile(path, name)):
            where = "" if Path(name) == path else f" as {'part of ' if Path(name).is_dir() else ''}{name}"
            raise ConfigError(f"{path} is read by this command{where}; it is not written over.", "Name another file.")


def is_within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies in it, after links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _is_stream(path: Path) -> bool:
    """Whether something is there that cannot be replaced by another file: a device, a pipe, an open descriptor."""
    if path.absolute().parts[1:2] in (("dev",), ("proc",)):
        return True
    return path.exists() and not stat.S_ISREG(path.stat().st_mode)


def require_content(path: Path) -> None:
    """Raise CheckpointError for a file that Git LFS has not fetched yet: a pointer stands in its place."""
    with suppress(OSError), path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise CheckpointError(
                f"{path} is a pointer of Git LFS, not the file itself.",
                f"Fetch it: `git lfs install`, then `git lfs pull` in {path.parent}.",
            )


_LFS = b"version https://git-lfs.github.com/spec/"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        IncompleteError: when the file is missing or is no JSON object.
    """
    require_content(path)
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IncompleteError(
            f"{path.parent} has no {path.name}, so it is not a whole checkpoint.", _LAST_GOOD
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", _LAST_GOOD) from None
    except ValueError as error:
        raise IncompleteError(f"{path} cannot be read: {error}.", _LAST_GOOD) from None
    if not isinstance(value, dict):
        raise IncompleteError(f"{path} holds no JSON object.", _LAST_GOOD)
    return value


def remove_unfinished(folder: Path) -> None:
    """Clear away what an interrupted save left in `folder`."""
    for path in folder.glob(f"{UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder to sync it
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
