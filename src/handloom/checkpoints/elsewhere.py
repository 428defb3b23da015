"""Models that lie in a single file, and the way on from a file or folder that holds no model that we read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from handloom.checkpoints import gguf_import, nanogpt, native, peft
from handloom.checkpoints.formats import GGUF, INDEX, NANOGPT, PICKLED, SAFETENSORS, way_on
from handloom.checkpoints.gpt2 import HFCheckpoint
from handloom.checkpoints.model_store import CONFIG
from handloom.errors import CheckpointError

_SHOWN = 3
_DEPTHS = ("*", "*/*")
"""How deep a model may lie in a folder to be named: as in the Hugging Face cache, `snapshots/REVISION`."""


def open_model(path: Path, on_note: Callable[[str], None]) -> HFCheckpoint:
    """The model in a GGUF file or in nanoGPT's `ckpt.pt`, or in the only such file of a folder.

    Raises:
        CheckpointError: when there is none; it names the way on from what is there instead.
    """
    entries = sorted(path.iterdir()) if path.is_dir() else [path]
    in_gguf = [entry for entry in entries if entry.suffix.lower() == GGUF]
    if len(in_gguf) == 1:
        return gguf_import.open_file(in_gguf[0], on_note)
    if len(in_gguf) > 1:
        raise CheckpointError(f"{path} holds {len(in_gguf)} GGUF files.", _name_one(in_gguf))
    if path.is_file() and path.suffix in (".pt", ".pth"):
        return nanogpt.open_file(path, on_note)
    if (path / NANOGPT).is_file():
        return nanogpt.open_file(path / NANOGPT, on_note)
    raise _no_model(path, {entry.name for entry in entries if entry.is_file()})


def _no_model(path: Path, names: set[str]) -> CheckpointError:
    if path.is_file():
        return CheckpointError(
            f"{path} is a file, and a model is a folder (or a GGUF file, or nanoGPT's ckpt.pt).",
            f"Name the folder that it is in: --model {path.parent}.",
        )
    if inner := _inner(path):
        where = "a folder in it does" if len(inner) == 1 else f"{len(inner)} folders in it do"
        return CheckpointError(f"{path} holds no model itself, but {where}.", _name_one(inner))
    if whole := sorted(names & {name + end for name in (SAFETENSORS, PICKLED) for end in ("", INDEX)}):
        return CheckpointError(
            f"{path} holds weights, {whole[0]}, but no {CONFIG}, which says what model they are of.",
            f"Put the {CONFIG} of that model into the same folder, and its tokenizer files.",
        )
    told = way_on(names)
    return CheckpointError(
        f"{path} is neither a run folder (it has no {native.CHECKPOINTS}/) nor a checkpoint or a Hugging Face "
        f"folder (it has no {CONFIG}){told[0] if told else ''}.",
        told[1] if told else "Name a run folder such as runs/demo.",
    )


def _inner(folder: Path) -> list[Path]:
    """The folders in a folder that look like models, those of the lowest depth."""
    marks = (CONFIG, peft.CONFIG, native.CHECKPOINTS, f"*{GGUF}", NANOGPT)
    for depth in _DEPTHS:
        found = {path.parent for mark in marks for path in folder.glob(f"{depth}/{mark}")}
        if shown := sorted(path for path in found if not path.name.startswith(".")):
            return shown
    return []


def _name_one(paths: list[Path]) -> str:
    shown = ", or ".join(f"--model {path}" for path in paths[:_SHOWN])
    return f"Name {'it' if len(paths) == 1 else 'one of them'}: {shown}."
