"""The files that a name stands for: a file, a folder, a glob; and the sources of a run, found again.

Folders are walked in sorted order, linked ones too. What is left out on the way is counted. Our own folders (runs,
checkpoints, models, tokenizers, prepared data) are never data unless their files are named. Reads no text.
"""

from __future__ import annotations

import difflib
import glob
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from handloom import storage
from handloom.data.builtin import BUILTIN
from handloom.data.omissions import Omissions
from handloom.data.text_io import IN_FOLDERS, Origin, ReadOptions, UnreadableError, has_suffix
from handloom.errors import CheckpointError, ConfigError, DataError, HandloomError
from handloom.ownership import is_ours
from handloom.runtime import cache_folder, expanded, found_from, is_there, models_folder
from handloom.storage import UNFINISHED
from handloom.values import parse_json

SUFFIXES = (".txt", ".md", ".py", *IN_FOLDERS)
"""Of the files in a folder that are read as text, whatever the capitals, and packed or not."""
_OWN = (
    ("origin.json",),
    ("adapter_config.json",),
    ("config.json", "model.safetensors"),
    ("config.json", "model.safetensors.index.json"),
    ("config.json", "pytorch_model.bin"),
    ("vocab.json", "merges.txt"),
)
"""Names of which all are there in a folder of a model or a tokenizer, by any program."""
_OF_PROCESS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Another file in each process, such as <(COMMAND), which a shell hands over as /dev/fd/63."""


def files_of(source: str, suffixes: tuple[str, ...] = SUFFIXES, omissions: Omissions | None = None) -> list[Path]:
    """The files that a name stands for: a file, whatever its suffix; a folder, walked recursively in sorted order; or
    a glob. Files in a folder have to end in one of `suffixes`; `omissions` counts what was left out on the way.

    Raises DataError for what is missing or empty, a folder without such a file, or one of our own folders.
    """
    source = expanded(source, "the data")
    path, left_out = Path(source), Omissions()
    if path.is_dir():
        if is_own_folder(path):
            raise DataError(
                f"{path.as_posix()}: the folder of a run, a model or prepared data, which is never taken as data.",
                "Name the files in it one by one if they are meant.",
            )
        found = list(_walk(path, suffixes, left_out))
        kind, others = ("text file", "rst") if suffixes == SUFFIXES else ("such file", "json")
        nothing = f"{path.as_posix()}: the folder holds no {kind} ({', '.join(suffixes)})."
        remedy = f'Name a folder that does, or name the files themselves, for example with "FOLDER/*.{others}".'
    elif path.exists():
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{path.as_posix()}: the file is empty.", "Name a file that holds text.")
        return [path]
    elif glob.has_magic(source):
        found = _matching(source, suffixes, left_out)
        nothing, remedy = f"{source}: no file matches.", "Check the pattern with ls; ** matches folders at every depth."
    else:
        raise DataError(f"{source}: no such file or folder.", _remedy_for_missing(path))
    if omissions is not None:
        omissions.update(left_out)
    if not found:
        raise DataError(" ".join([nothing, *left_out.problems()]), remedy)
    return sorted(found, key=lambda path: path.parts)


def find_files(find: Callable[[str], list[Path]], source: str, options: ReadOptions, alone: bool) -> list[Path]:
    """What `find` finds; its error goes to the `on_error` of the options, unless the source is the only one."""
    try:
        return find(source)
    except DataError as error:
        if alone:
            raise
        options.report(UnreadableError(error.problem, error.remedy), Origin(source))
        return []


def is_own_folder(folder: Path) -> bool:
    """Whether it was written by Handloom, or is a model's: a run, a checkpoint, an export, a tokenizer, the cache."""
    if is_ours(folder) or any(all((folder / name).exists() for name in names) for names in _OWN):
        return True
    for place in (cache_folder, models_folder):
        with suppress(ConfigError, OSError):  # no home folder, or nothing there yet
            if os.path.samefile(folder, place()):
                return True
    return False


def is_pipe(source: str) -> bool:
    """Whether what is there can be read only once, as <(COMMAND), /dev/stdin or a FIFO; true of devices too."""
    path = Path(source).expanduser() if source.startswith("~/") else Path(source)
    return path.exists() and not (path.is_file() or path.is_dir())


# The sources of a run, at another time or from another folder


def find_again(sources: Sequence[str], run: Path) -> tuple[str, ...]:
    """The sources of a run from here: as they are named, else from the folder it was begun in or one above the run."""
    folders = list(run.absolute().parents)
    with suppress(HandloomError):
        folders.insert(0, Path(str(storage.read_json(run / "data.json").get("folder", os.curdir))))
    return tuple(one if one in (*BUILTIN, "-") else found_from(one, folders) for one in sources)


def unrepeatable(sources: Sequence[str]) -> list[str]:
    """Those that cannot be read again, for people: pipes, and what is not there any more."""
    return [
        "standard input" if one == "-" else one
        for one in sources
        if one not in BUILTIN and (one == "-" or one.startswith(_OF_PROCESS) or not is_there(one) or is_pipe(one))
    ]


def data_hash_of(run: Path) -> str:
    """The hash of the data of a run, from its data.json; CheckpointError when that is missing or damaged."""
    described = run / "data.json"
    if not described.is_file():
        raise CheckpointError(f"{run} is not a run folder: it has no data.json.", "Check the path.")
    try:
        return str(parse_json(described.read_bytes())["key"])
    except (ValueError, TypeError, KeyError):
        problem = f"{described} is damaged: it lacks the hash of the data."
        raise CheckpointError(problem, "Resume the run, which repairs it.") from None


def require_same_data(run: Path, data_hash: str) -> None:
    """Raise DataError for other text than that of a run, which would show another batch."""
    if (then := data_hash_of(run)) != data_hash:
        raise DataError(
            f"The text of run {run} has changed (hash {data_hash[:12]}, expected {then[:12]}).",
            "Put the text back as it was; only then can the batch be shown.",
        )


# Walking


def _walk(folder: Path, suffixes: tuple[str, ...], omissions: Omissions) -> Iterator[Path]:
    """Files below a folder; those behind links come last, and no folder is walked twice."""

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename}: cannot be listed ({error.strerror}).", "Check your permission to read that folder."
        )

    visited, starts = set[str](), [folder]
    for start in starts:
        for where, folders, files in os.walk(start, onerror=refuse):
            real = os.path.realpath(where)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            below = [Path(where, name) for name in sorted(folders)]
            below = [path for path in below if _is_taken(path, suffixes, omissions, is_folder=True)]
            starts += [path for path in below if path.is_symlink()]
            folders[:] = [path.name for path in below if not path.is_symlink()]
            yield from (path for name in sorted(files) if _is_taken(path := Path(where, name), suffixes, omissions))


def _is_taken(path: Path, suffixes: tuple[str, ...], omissions: Omissions, *, is_folder: bool = False) -> bool:
    """Whether a file in a folder is read, or a folder walked; if not, that is counted, but for locks and the like."""
    name, reason, by = path.name, "", ""
    if name == "__pycache__" or name.startswith(UNFINISHED) or (name.startswith(".") and name.endswith(".lock")):
        return False
    if name.startswith("."):
        reason = "hidden"
    elif is_folder and is_own_folder(path):
        reason = "own-folder"
    elif is_folder and path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
        reason = "link-loop"
    elif not is_folder and not path.is_file():
        reason = "no-file"
    elif not is_folder and not has_suffix(name, suffixes):
        reason, by = "suffix", path.suffix.lower() or "without any"
    if reason:
        omissions.add(reason, path.as_posix(), by=by)
    return not reason


def _matching(pattern: str, suffixes: tuple[str, ...], left_out: Omissions) -> list[Path]:
    """Files that a glob matches, and those below matching folders; none in our own folders that wildcards matched."""
    parts = Path(pattern).parts
    named = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    is_own = cache(is_own_folder)
    own, visited, found = set[Path](), set[str](), list[Path]()
    matches = sorted(map(Path, glob.glob(pattern, recursive=True)), key=lambda path: (len(path.parts), path))
    for path in matches:
        real = os.path.realpath(path)
        if real in visited:  # by a shorter path; links may lead in a circle
            continue
        visited.add(real)
        below = [folder for folder in (path, *path.parents) if named in folder.parents and folder.is_dir()]
        if inside := [folder for folder in below if is_own(folder)]:
            own.add(inside[-1])
        elif path.is_file():
            found.append(path)
        elif not path.is_dir():
            left_out.add("no-file", path.as_posix())
        elif "**" not in parts:
            found += _walk(path, suffixes, left_out)
    for folder in sorted(own):
        left_out.add("own-folder", folder.as_posix())
    return found


def _remedy_for_missing(path: Path) -> str:
    folder = path.parent
    try:
        around = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    except OSError:
        around = []
    near = difflib.get_close_matches(path.name, [*around, *BUILTIN], n=1)
    if near:
        return f'Did you mean "{near[0] if near[0] in BUILTIN else (folder / near[0]).as_posix()}"?'
    return f"Check the path, or name a built-in corpus ({', '.join(BUILTIN)})."
