"""Checkpoints of Handloom's own that somebody has changed: a part of the second table of docs/errors.md.

Each case begins in an empty folder and makes there what is wrong: a checkpoint `theirs`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from bad_inputs import BadInput
from foreign_models import THEIRS, WEIGHTS, cut, model
from foreign_tokenizers import MERGES, tokenizer

import gpt2_folders
from handloom import storage
from handloom.checkpoints import native, safetensors_io
from handloom.tokenizer.bpe import BPETokenizer


def checkpoint_case(what: str, change: Callable[[], object], manifest: bool = True, run: bool = False) -> BadInput:
    """A checkpoint; `manifest`: written anew after the change, `run`: the only one of a run."""
    folder = native.step_folder(THEIRS, 3) if run else THEIRS

    def before(stack: ExitStack) -> None:
        native.save(folder, model(), tokenizer(), {"progress": {"step": 3}})
        change()
        if manifest:
            (folder / storage.MANIFEST).unlink()
            found = [path for path in folder.rglob("*") if path.is_file()]
            described = {path.relative_to(folder).as_posix(): storage.describe(path) for path in found}
            storage.write_json(folder / storage.MANIFEST, described)

    return BadInput(what, "handloom generate Hello --model theirs", before)


def described(folder: Path = THEIRS, **changes: object) -> Callable[[], None]:
    """The checkpoint's config.json with other values."""
    return lambda: gpt2_folders.edit_json(folder / "config.json", **changes)


def shaped(**changes: object) -> Callable[[], None]:
    return described(model={**gpt2_folders.CONFIG.to_dict(), **changes})


def untied() -> None:
    """A head in the weights of which config.json knows nothing."""
    tensors = safetensors_io.read_tensors(THEIRS / WEIGHTS)
    tensors["lm_head.weight"] = torch.zeros(280, 8)
    safetensors_io.write_tensors(THEIRS / WEIGHTS, tensors)


def manifest_of(change: Callable[[dict], None]) -> Callable[[], None]:
    def before() -> None:
        entries = storage.read_json(THEIRS / storage.MANIFEST)
        change(entries)
        storage.write_json(THEIRS / storage.MANIFEST, entries)

    return before


CASES = [
    checkpoint_case("A checkpoint without a manifest", lambda: (THEIRS / storage.MANIFEST).unlink(), manifest=False),
    checkpoint_case(
        "A manifest that says nothing of a file",
        manifest_of(lambda entries: entries.update({WEIGHTS: {}})),
        manifest=False,
    ),
    checkpoint_case("A manifest that names no file", manifest_of(lambda entries: entries.clear()), manifest=False),
    checkpoint_case("A file of another length", cut("training.json"), manifest=False),
    checkpoint_case(
        "A config.json of another program", described(native.step_folder(THEIRS, 3), format="other"), run=True
    ),
    checkpoint_case("A checkpoint of a later version", described(version=2)),
    checkpoint_case("A field that is not known", shaped(widht=8)),
    checkpoint_case("A tensor missing in a checkpoint", shaped(tie_embeddings=False)),
    checkpoint_case("A tensor of no use in a checkpoint", untied),
    checkpoint_case("A tensor of another shape in a checkpoint", shaped(context_length=9)),
    checkpoint_case("Weights that are not safetensors", lambda: (THEIRS / WEIGHTS).write_bytes(b"\xff" * 99)),
    checkpoint_case("The tokenizer of another model", lambda: BPETokenizer(MERGES[:2]).save(THEIRS / "tokenizer")),
]
