"""Packed models in the cache: packed once, mapped at every later start, so that no float32 weights are read again.

    CACHE/packed/int8-KEY-CHECKSUM.safetensors

KEY stands for the model's files (path, size and times of each), its shape, the precision, and how matrices are packed;
CHECKSUM for every byte of the file. What is damaged is made again. Runs that were tuned with LoRA are not kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from handloom import runtime, storage
from handloom.checkpoints.hf_folder import HFCheckpoint
from handloom.checkpoints.native import Checkpoint
from handloom.checkpoints.safetensors_io import read_tensors, write_tensors
from handloom.errors import HandloomError
from handloom.model.summary import parameter_count
from handloom.quantization import packing
from handloom.quantization.packed import PackedGPT, pack_model, restore_model
from handloom.quantization.precision import note_if_slow
from handloom.values import parse_json

SMALLEST = 8_000_000
"""Parameters of the smallest model that is kept; a smaller one is packed in less than 0.2 s."""
LIMIT = 4 << 30
"""Bytes of all packed models that are kept; those that were not used for longest go first."""
_ABANDONED = 24 * 3600
"""Seconds after which an unfinished file is that of a process that was killed."""
_PAGE, _LINE = 4096, 64
_NOT_KEPT = "The packed model cannot be kept in the cache, so it is packed at each start: {}"


def load_packed(source: Checkpoint | HFCheckpoint, precision: str, on_note: Callable[[str], None]) -> PackedGPT:
    """The model in one of `packing.BITS`: mapped from the cache, or packed now and kept there.

    Raises CheckpointError and ModelError as `load_model` and `pack`. Where the cache cannot be used, a note says so.
    """
    note_if_slow(precision, on_note)
    if parameter_count(source.config) < SMALLEST:
        return pack_model(source.load_model(), precision)
    notes: list[str] = []

    def noted(note: str) -> None:
        notes.append(note)
        on_note(note)

    try:
        folder, name = runtime.cache_folder() / "packed", f"{precision}-{_key(source, precision)}"
        for path in folder.glob(f"{name}-*.safetensors"):
            if (found := _read(path, source, precision, on_note)) is not None:
                return found
    except (OSError, HandloomError) as error:
        on_note(_NOT_KEPT.format(error))
        return _pack(source, precision, on_note)
    packed = _pack(source, precision, noted)
    try:
        path = _write(folder, name, packed, notes)
        on_note(f"Packed as {precision}, and kept for later starts: {path} ({path.stat().st_size / 1e6:,.0f} MB).")
    except (OSError, HandloomError) as error:
        on_note(_NOT_KEPT.format(error))
    with suppress(OSError):  # another process may do the same
        _prune(folder)
    return packed


def checksum(path: Path) -> str:
    """Of every byte of a file: the sums of its pages, and those of its columns 8 bytes wide, hashed.

    At the speed of memory, unlike SHA-256. Not against intent: the cache is the user's.
    Raises OSError or RuntimeError for a file that cannot be mapped.
    """
    size = path.stat().st_size
    data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    rest = size % _PAGE
    words = data[: size - rest].view(torch.int64).view(-1, _PAGE // 8)  # (pages, 512); sums wrap around
    digest = hashlib.sha256(data[size - rest :].numpy().tobytes())
    for sums in (words.sum(0), words.sum(1)):
        digest.update(sums.numpy().tobytes())
    return digest.hexdigest()[:16]


def _key(source: Checkpoint | HFCheckpoint, precision: str) -> str:
    files = [source.folder] if source.folder.is_file() else sorted(p for p in source.folder.iterdir() if p.is_file())
    found = [(str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
             for path, stat in ((path, path.stat()) for path in files)]  # fmt: skip
    how = hashlib.sha256(Path(packing.__file__).read_bytes()).hexdigest()
    described = json.dumps([precision, how, source.config.to_dict(), found])
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _pack(source: Checkpoint | HFCheckpoint, precision: str, on_note: Callable[[str], None]) -> PackedGPT:
    """The model, packed matrix by matrix; pages of the float32 file leave the memory as soon as they were read."""
    if isinstance(source, HFCheckpoint):
        model = dataclasses.replace(source, on_note=on_note).load_model(_release)
    else:
        model = source.load_model()
    return pack_model(model, precision, _release)


def _release(weight: Tensor) -> None:
    if weight.nbytes > 1 << 20:
        runtime.release_pages(weight.data_ptr(), weight.nbytes)


def _read(
    path: Path, source: Checkpoint | HFCheckpoint, precision: str, on_note: Callable[[str], None]
) -> PackedGPT | None:
    """The model in a file of the cache; None, with a note, for one that is damaged, which is removed."""
    try:
        if checksum(path) != path.stem.rpartition("-")[2]:
            raise ValueError("its checksum is wrong")
        with safe_open(path, framework="pt") as file:
            notes = parse_json((file.metadata() or {})["notes"])
        packed = restore_model(source.config, precision, read_tensors(path))
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, HandloomError) as error:
        on_note(f"The packed model {path} is damaged ({error}), and made again.")
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):
        os.utime(path)  # used now
    for note in notes:
        on_note(note)
    return packed


def _write(folder: Path, name: str, packed: PackedGPT, notes: list[str]) -> Path:
    """Keep a packed model: completely or not at all. Returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(packed.state_dict())
    storage.require_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
    temporary = folder / f"{storage.UNFINISHED}{name}-{os.getpid()}"
    try:
        text = json.dumps(notes)
        write_tensors(temporary, tensors, {"notes": text})
        with temporary.open("rb") as file:  # 8 bytes with the length of the header, the header, the tensors
            begin = 8 + int.from_bytes(file.read(8), "little")
        if begin % _LINE:  # rows that cross lines of the processor's cache are read more slowly
            write_tensors(temporary, tensors, {"notes": text + " " * (-begin % _LINE)})
        path = folder / f"{name}-{checksum(temporary)}.safetensors"
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _prune(folder: Path) -> None:
    """Remove what was not used for longest, as far as all packed models take more than `LIMIT`; and abandoned files."""
    kept = 0
    found = sorted(((path.stat(), path) for path in folder.iterdir()), key=lambda pair: -pair[0].st_mtime)
    for number, (stat, path) in enumerate(found):
        kept += stat.st_size
        abandoned = path.name.startswith(storage.UNFINISHED) and stat.st_mtime < time.time() - _ABANDONED
        if abandoned or (number and kept > LIMIT):
            path.unlink(missing_ok=True)
