"""The atomic store: files and folders that are complete or absent, their checksums, and errors of the disk in words.

A folder gets a `manifest.json` with the size and SHA-256 of every file in it, written last; a folder without one, or
that disagrees with it, is incomplete. Knows nothing of models.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from handloom.errors import CheckpointError, ConfigError, IncompleteError
from handloom.values import parse_json

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished-"
HEADROOM = 1 << 20
"""Bytes kept free beyond the files themselves: room for the folder's own bookkeeping."""
_LFS = b"version https://git-lfs.github.com/spec/"
_LAST_GOOD = "Copy it again from its source; of a run, an earlier checkpoint can be used instead."


@contextmanager
def explaining_os_errors(target: Path) -> Iterator[None]:
    """Turns an OSError of the block into the CheckpointError that `explain_os_error` makes of it."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, target) from error


def explain_os_error(error: OSError, target: Path) -> CheckpointError:
    """The error for a disk that refuses to write `target`."""
    problem, remedy = (
        f"Could not write {target}: {error.strerror or error}.",
        "Check the disk, or choose another folder.",
    )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        problem = f"The disk became full while writing {target}."
        remedy = (
            "Free some space and use the same command again; a run that has a checkpoint goes on with `resume`. What "
            "was saved before is untouched."
        )
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        problem = f"Not allowed to write {target} ({error.strerror})."
        remedy = "Choose a folder that you may write to, for example with `run`."
    return CheckpointError(problem, remedy)


def require_space(folder: Path, needed: int) -> None:
    """Raise CheckpointError unless `needed` bytes and a little more are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + HEADROOM:
        raise CheckpointError(
            f"No space to write to {folder}: {needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free.",
            "Free some space, keep fewer checkpoints (`keep_checkpoints=1`), or choose another folder. "
            "What was saved before is untouched.",
        )


@contextmanager
def atomic_folder(target: Path, expected_bytes: int) -> Iterator[Path]:
    """A temporary folder to fill, which replaces `target` in one step when the block ends without an error.

    Raises CheckpointError when less than `expected_bytes` are free, or the disk refuses. What was at `target` before is
    unchanged then, and the temporary folder is gone.
    """
    temporary = temporary_of(target)
    with ExitStack() as stack:
        stack.enter_context(explaining_os_errors(target))
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        require_space(target.parent, expected_bytes)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        entries = {path.relative_to(temporary).as_posix(): describe(path) for path in _files(temporary)}
        write_json(temporary / MANIFEST, entries)
        move_into_place(temporary, target)


def temporary_of(target: Path) -> Path:
    """Where a folder is filled before it becomes `target`."""
    return target.with_name(f"{UNFINISHED}{target.name}")


def previous_of(target: Path) -> Path:
    """Where a folder is for the moment in which another takes its place."""
    return target.with_name(f".previous-{target.name}")


def move_into_place(temporary: Path, target: Path) -> None:
    """Sync a filled folder to the disk and rename it to `target`; an older one there is removed.

    Raises OSError when the disk refuses; `target` is then as it was.
    """
    for path in (*_files(temporary), *sorted({path.parent for path in temporary.rglob("*")}, reverse=True)):
        sync(path)
    older = previous_of(target)
    if target.exists():
        os.rename(target, older)
    try:
        os.rename(temporary, target)
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


def remove_unfinished(folder: Path) -> None:
    """Remove what an interrupted save left in `folder`."""
    for path in folder.glob(f"{UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def verify_folder(folder: Path, needs: Iterable[str] = ()) -> None:
    """Compare every file of a folder of `atomic_folder`, and every one that it `needs`, with its manifest.

    Raises IncompleteError, naming the file that is missing, short, long or altered.
    """
    manifest = read_json(folder / MANIFEST)
    for name in dict.fromkeys((*needs, *manifest)):
        try:
            if problem := _difference(folder / name, name, manifest.get(name)):
                raise IncompleteError(f"{folder} is {problem}.", _LAST_GOOD)
        except OSError as error:
            raise CheckpointError(f"{folder / name} cannot be read: {error}.", _LAST_GOOD) from None


def _difference(path: Path, name: str, entry: Any) -> str:
    """How a file differs from its entry in the manifest; empty if it does not."""
    if not isinstance(entry, dict) or {"bytes", "sha256"} - entry.keys():
        return f"damaged: its {MANIFEST} does not list {name}"
    if not path.is_file():
        return f"incomplete: its file {name} is missing"
    if (size := path.stat().st_size) != entry["bytes"]:
        return f"incomplete: its file {name} has {size} bytes instead of {entry['bytes']}"
    altered = sha256(path) != entry["sha256"]
    return f"damaged: its file {name} does not have the checksum it was written with" if altered else ""


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


@contextmanager
def output_file(path: Path, inputs: Iterable[str | Path] = (), *, binary: bool = False) -> Iterator[IO[Any]]:
    """An open file, of UTF-8 text unless `binary`, that replaces `path` when the block ends without an error.

    A link stays a link; a device or a pipe is written as it is. Raises as `require_not_input`, or CheckpointError when
    the disk refuses; an older file at `path` is unchanged then.
    """
    require_not_input(path, inputs)
    how: dict[str, Any] = {"mode": "wb"} if binary else {"mode": "w", "encoding": "utf-8", "newline": "\n"}
    with explaining_os_errors(path):
        if _is_stream(path):
            with path.open(**how) as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f"{UNFINISHED}{target.name}-{os.getpid()}")
        try:
            with temporary.open(**how) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        finally:
            with suppress(OSError):  # which would hide the error that led here
                temporary.unlink()


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
    """Whether `path` is `folder` or in it, after links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _is_stream(path: Path) -> bool:
    """Whether the path leads to what another file cannot replace: a device, a pipe, an open descriptor."""
    if path.absolute().parts[1:2] in (("dev",), ("proc",)):
        return True
    return path.exists() and not stat.S_ISREG(path.stat().st_mode)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises IncompleteError for a missing file or another value, CheckpointError for a file that cannot be read or is a
    pointer of Git LFS.
    """
    require_content(path)
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IncompleteError(f"{path} is missing, so {path.parent} is incomplete.", _LAST_GOOD) from None
    except (OSError, ValueError) as error:
        kind = CheckpointError if isinstance(error, OSError) else IncompleteError
        raise kind(f"{path} cannot be read: {error}.", _LAST_GOOD) from None
    if not isinstance(value, dict):
        raise IncompleteError(f"{path} is not a JSON object.", _LAST_GOOD)
    return value


def require_content(path: Path) -> None:
    """Raise CheckpointError for the pointer that Git LFS puts in the place of a file it has not fetched."""
    with suppress(OSError), path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise CheckpointError(
                f"{path} is a pointer of Git LFS, not the file itself.",
                f"Fetch it: `git lfs install`, then `git lfs pull` in {path.parent}.",
            )


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
