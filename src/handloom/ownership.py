"""What a command may remove or replace: only what has our mark, of it only files that we wrote, nothing that it reads.

The mark of a run folder is its `run.json`; that of an exported folder is a `manifest.json`, which names its files.
Everything that removes or replaces a folder checks here first (docs/safety.md). Removes only files that are ours.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from handloom.errors import CheckpointError, ConfigError, HandloomError
from handloom.locks import IN_FOLDER
from handloom.storage import MANIFEST, UNFINISHED, is_within, read_json, sha256, write_json
from handloom.values import parse_json

RUN_MARK = "run.json"
RUN_FORMAT = "handloom-run"
CHECKPOINTS = "checkpoints"
SET_ASIDE = "set-aside-"
"""Before the name of an incomplete checkpoint that a resumed run has passed over."""
PREVIOUS = ".previous"
"""In a run folder: the run that is being replaced, until the first checkpoint of the new one is saved."""
MOVING = ".previous-moving"
"""The same while its files are being moved there or back."""
DROPPED = "dropped"
"""In a run folder: checkpoints and records that a user has dropped to go on from an earlier step."""
DEPENDENTS = "dependents"
"""In a run folder: one file for each run that was trained from one of its checkpoints and still needs it."""

_TOKENIZER = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
              "added_tokens.json", "generation_config.json", "chat_template.jinja")  # fmt: skip
_CHECKPOINT = (
    MANIFEST, "config.json", "training.json", "*.safetensors", "adapter_config.json",
    *(f"tokenizer/{name}" for name in _TOKENIZER),
)  # fmt: skip
_STEPS = tuple(f"{CHECKPOINTS}/{folder}/{name}" for folder in ("step-*", f"{SET_ASIDE}*") for name in _CHECKPOINT)
_RECORDS = ("config.toml", "loss.svg", "samples.md", "summary.json", "metrics.jsonl")
_RUN = (
    RUN_MARK, IN_FOLDER, "data.json", "metrics-damaged-*.jsonl", "tensorboard/events.out.tfevents.*",
    f"{DEPENDENTS}/*.json", *(f"tokenizer/{name}" for name in _TOKENIZER), *_RECORDS, *_STEPS,
    *(f"{DROPPED}/*/{name}" for name in (*_RECORDS, *_STEPS)),
)  # fmt: skip
"""The files of a run folder, as patterns; nothing else in it is ours."""
_RUN_FOLDERS = {str(folder) for pattern in _RUN for folder in PurePosixPath(pattern).parents}

_SMALL = 1 << 20
"""Up to this size a file of an export is compared by its checksum, beyond it by its size."""


def mark_run(run: Path, base: str | None = None) -> None:
    """Mark a folder as a run of ours; `base` is the fingerprint of the model that the run keeps needing, if any."""
    write_json(run / RUN_MARK, {"format": RUN_FORMAT, "version": 1, "base": base})


def run_mark(folder: Path) -> dict[str, Any] | None:
    """The content of a run folder's mark; None if it has none."""
    try:
        mark = parse_json((folder / RUN_MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) and mark.get("format") == RUN_FORMAT else None


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The files of a folder that we wrote as a whole, with their sizes and checksums; None if it is not one."""
    try:
        manifest = read_json(folder / MANIFEST)
    except HandloomError:
        return None
    complete = all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in manifest.values())
    return manifest if complete and manifest else None


def is_ours(folder: Path) -> bool:
    """Whether a folder has our mark."""
    return run_mark(folder) is not None or _manifest(folder) is not None


def foreign_files(folder: Path) -> list[str]:
    """The files, links and folders in `folder` that we did not write, or that were changed since, sorted."""
    manifest = None if run_mark(folder) or (folder / PREVIOUS).is_dir() else _manifest(folder)
    found = []
    for path in _entries(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()) and not _may_hold_ours(name, manifest):
                found.append(f"{name}/")
        elif path.is_symlink() or not (_in_run(name) if manifest is None else _as_written(path, name, manifest)):
            found.append(name)
    return sorted(found)


def remove_ours(run: Path, keep: frozenset[str] = frozenset()) -> None:
    """Remove the files of a run, but for the names in `keep`, and the folders in it that become empty."""
    for path in sorted(_entries(run), reverse=True):
        name = path.relative_to(run).as_posix()
        if not keep.isdisjoint(name.split("/")):
            continue
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()) and _may_hold_ours(name, None):
                path.rmdir()
        elif not path.is_symlink() and _in_run(name):
            path.unlink()


def _entries(folder: Path) -> Iterator[Path]:
    """Everything below a folder. A link is named and not followed, unless it is where a run keeps its checkpoints."""
    linked = folder / CHECKPOINTS
    is_link = linked.is_symlink() and linked.is_dir()
    for top in (folder, linked) if is_link else (folder,):
        for place, folders, files in os.walk(top):
            for path in (Path(place, name) for name in (*folders, *files)):
                if not (is_link and path == linked):
                    yield path


def _in_run(name: str) -> bool:
    """Whether the files of a run have that name."""
    aside = any(part.startswith(UNFINISHED) or part in (PREVIOUS, MOVING) for part in name.split("/"))
    return aside or _matches(name, _RUN)


def _may_hold_ours(name: str, manifest: dict[str, Any] | None) -> bool:
    """Whether a folder of that name is one of those that we make."""
    if manifest is not None:
        return any(file.startswith(f"{name}/") for file in manifest)
    return _in_run(name) or _matches(name, _RUN_FOLDERS)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(PurePosixPath("/", name).match(f"/{pattern}") for pattern in patterns)


def _as_written(path: Path, name: str, manifest: dict[str, Any]) -> bool:
    """Whether a file of an export is the one in its manifest, or the manifest itself."""
    entry = manifest.get(name)
    if name == MANIFEST or entry is None or path.stat().st_size != entry["bytes"]:
        return name == MANIFEST
    return entry["bytes"] > _SMALL or sha256(path) == entry["sha256"]


def require_replaceable(target: Path, reads: Iterable[str | Path], overwrite: bool | None, setting: str = "") -> None:
    """Refuse to make the folder `target`, which `setting` names, unless nothing is lost by it.

    `reads` are files and folders that the command reads; `overwrite`: whether a folder of ours that is there may be
    replaced, None if this command never does that.

    Raises:
        ConfigError: it is a file, is in a folder of ours, contains something that the command reads or is in it,
            contains files that we did not write, is needed by another run, or is there already.
    """
    another = require_folder(target, setting)
    for above in (*Path(os.path.realpath(target)).parents, *Path(os.path.abspath(target)).parents):
        if is_ours(above):
            raise ConfigError(f"{target} is in {shown(above)}, which Handloom wrote and may remove.", another)
    if not target.is_dir() or not _holds_anything(target):
        return
    for name in map(Path, reads):
        if name.exists() and _overlap(target, name):
            raise ConfigError(f"{target} cannot be replaced: this command reads {name}.", another)
    if needed := dependents(target):
        step, runs = next(iter(needed.items()))
        raise ConfigError(
            f"{target} cannot be replaced: {runs[0]} was trained from its checkpoint {step} and needs it.",
            f"{another} Or remove {runs[0]} first.",
        )
    ours, run = is_ours(target), run_mark(target) is not None
    if not ours or (foreign := foreign_files(target)):
        found = foreign if ours else sorted(path.name for path in target.iterdir() if path.name != IN_FOLDER)
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        changed = ", or that were changed since" if ours and not run else ""
        raise ConfigError(
            f"{target} holds files that Handloom did not write{changed}: {', '.join(found[:5])}{more}. It is left "
            "alone.",
            f"Move them to another place, or n{another[1:]}",
        )
    if not overwrite:
        what = "already holds a run" if run else "is there already"
        resume = f"Go on with it (`resume={target}`), r" if run and any(target.glob(f"{CHECKPOINTS}/step-*")) else "R"
        replace = f"{resume}eplace it (`overwrite=true`), or n{another[1:]}"
        raise ConfigError(f"{target} {what}.", another if overwrite is None else replace)


def require_folder(target: Path, setting: str = "") -> str:
    """Raise ConfigError if `target` is a file; returns the remedy that names another folder."""
    another = f"Name another folder{setting and f' with `{setting}`'}."
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file, not a folder.", another)
    return another


def _holds_anything(folder: Path) -> bool:
    """Whether a folder is not empty; an empty folder called `checkpoints`, or a link to one, does not count."""
    names = {path.name for path in folder.iterdir()} - {IN_FOLDER}
    steps = folder / CHECKPOINTS
    return bool(names - {CHECKPOINTS}) or (CHECKPOINTS in names and not (steps.is_dir() and not any(steps.iterdir())))


def _overlap(target: Path, read: Path) -> bool:
    """Whether replacing the folder `target` would remove what is read: `read`, or what links in it lead to.

    A folder of texts may contain the target: our own folders are not texts. Any other folder that is read may not.
    """
    if is_within(read, target) or is_within(read, target / CHECKPOINTS):  # which may be on another disk
        return True
    if is_within(target, read) and is_ours(read):
        return True
    links = (path for path in _entries(read) if path.is_symlink() and not is_within(path.parent, target))
    return any(is_within(path, target) for path in links)


def shown(folder: Path) -> str:
    """A folder's path, relative to the current folder if it is below it."""
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative


def record_dependent(base: Path, run: Path, fingerprint: str) -> None:
    """Note in the run of the checkpoint `base` that `run` needs it.

    Nothing is noted for a model that is not a checkpoint of a run, or where it may not be written.
    """
    owner = base.parent.parent
    if base.parent.name != CHECKPOINTS or run_mark(owner) is None:
        return
    where = os.path.realpath(run)
    noted = {"run": where, "from_here": os.path.relpath(where, os.path.realpath(owner)), "checkpoint": base.name}
    with suppress(OSError):
        (owner / DEPENDENTS).mkdir(exist_ok=True)
        name = f"{hashlib.sha256(where.encode()).hexdigest()[:16]}.json"
        write_json(owner / DEPENDENTS / name, {**noted, "fingerprint": fingerprint})


def dependents(run: Path) -> dict[str, list[str]]:
    """The checkpoints of a run that other runs need, each with these runs. A run that is gone needs none.

    Both may have been moved together: a run is also looked for at the same place relative to this one.
    """
    found: dict[str, list[str]] = {}
    for path in sorted((run / DEPENDENTS).glob("*.json")):
        with suppress(CheckpointError, KeyError, TypeError):
            noted = read_json(path)
            for place in (Path(noted["run"]), Path(os.path.realpath(run), noted["from_here"]).resolve()):
                if (mark := run_mark(place)) and mark.get("base") == noted["fingerprint"]:
                    found.setdefault(noted["checkpoint"], []).append(shown(place))
                    break
    return found
