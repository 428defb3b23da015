"""A run's checkpoints: everything needed to use a model, and to resume training to the last bit.

    runs/NAME/checkpoints/step-00000400/
        config.json              the shape of the model
        model.safetensors        its weights, float32, each stored once
        tokenizer/               vocab.json and merges.txt
        optimizer.safetensors    the optimizer's state   (absent in a model that is only used)
        training.json            progress, settings, hash of the data, chat template, versions, tokenizer
        manifest.json            size and checksum of each of them

A run that was tuned with LoRA has, in place of model.safetensors, the two files of an adapter in PEFT's format
(`peft`); its config.json names the base model and its fingerprint.

Never pickle: reading a checkpoint runs no code of its author's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handloom import ownership, storage
from handloom.checkpoints.memory import require_memory
from handloom.checkpoints.safetensors_io import read_tensors, require_same_shapes, write_tensors
from handloom.errors import CheckpointError, ConfigError, IncompleteError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.base import Tokenizer

FORMAT = "handloom-checkpoint"
VERSION = 1
CHECKPOINTS = ownership.CHECKPOINTS
_OTHER_VERSION = "Use the version of Handloom that wrote it, or name an earlier checkpoint of the run."


@dataclass(frozen=True)
class BaseModelRef:
    """The model that an adapter was trained on."""

    name: str
    """As it was named when the tuning began."""
    fingerprint: str
    """Of its weights, from `fingerprint`."""
    checkpoint: str | None = None
    """The name of its checkpoint folder, if it was a run."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    config: GPTConfig
    training: dict[str, Any]
    base: BaseModelRef | None = None
    """Of an adapter: its base model."""

    def load_model(self) -> GPT:
        """The model, ready to use; its weights are read once and not copied. Not for an adapter."""
        assert self.base is None
        require_memory(self.config, self.folder)
        with torch.device("meta"):
            model = GPT(self.config)
        assign_weights(model, read_tensors(self.folder / "model.safetensors"), self.folder)
        return model.eval()

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with.

        Raises CheckpointError: its fingerprint is not the one that the checkpoint names.
        """
        tokenizer = load_tokenizer(self.folder / "tokenizer")
        if tokenizer.fingerprint != self.training["tokenizer"]:
            raise CheckpointError(
                f"The tokenizer in {self.folder} is not the one that its model was trained with: fingerprint "
                f"{tokenizer.fingerprint[:12]} instead of {self.training['tokenizer'][:12]}.",
                "Put back the tokenizer folder that was saved with this model.",
            )
        return tokenizer

    def load_optimizer(self) -> dict[str, Tensor]:
        """The optimizer's state, tensors by name."""
        return read_tensors(self.folder / "optimizer.safetensors")


def save(
    folder: Path,
    model: GPT,
    tokenizer: Tokenizer,
    training: Mapping[str, Any],
    optimizer: Mapping[str, Tensor] | None = None,
    adapter: tuple[BaseModelRef, Callable[[Path], None]] | None = None,
) -> None:
    """Write a checkpoint to `folder`: completely or not at all.

    Args:
        model: a tied head is stored once.
        training: the trainer state as JSON values: progress, settings, data, template, versions.
        optimizer: its state tensors by name; without them training cannot resume here.
        adapter: if only that is saved: its base model, and a function that writes its files into a folder.

    Raises CheckpointError when the disk refuses.
    """
    weights = dict(model.state_dict()) if adapter is None else {}
    size = sum(t.numel() * t.element_size() for t in (*weights.values(), *(optimizer or {}).values()))
    described: dict[str, Any] = {"format": FORMAT, "version": VERSION, "model": model.config.to_dict()}
    with storage.atomic_folder(folder, size + (4 << 20)) as temporary:
        if adapter is None:
            write_tensors(temporary / "model.safetensors", weights)
        else:
            base, write = adapter
            described["adapter"] = dataclasses.asdict(base)
            write(temporary)
        storage.write_json(temporary / "config.json", described)
        (temporary / "tokenizer").mkdir()
        tokenizer.save(temporary / "tokenizer")
        if optimizer is not None:
            write_tensors(temporary / "optimizer.safetensors", optimizer)
        storage.write_json(temporary / "training.json", {**training, "tokenizer": tokenizer.fingerprint})


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify the checkpoint in `folder`; every byte is compared with its checksum.

    Raises IncompleteError: files are missing or altered; CheckpointError: it is missing, or of another program or
    version.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint at {folder}.", "Check the path; `ls` its parent folder.")
    try:
        described = storage.read_json(folder / "config.json")
    except IncompleteError:
        described = {}
    if described.get("format") == FORMAT and described.get("version") != VERSION:
        raise CheckpointError(
            f"{folder} has format version {described.get('version')}; this program reads version {VERSION}.",
            _OTHER_VERSION,
        )
    base = described.get("adapter")
    weights = "adapter_model.safetensors" if base else "model.safetensors"
    storage.verify_folder(folder, ("config.json", "training.json", weights))
    if described.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder}/config.json is not of a Handloom checkpoint.", "Name a run folder or a checkpoint inside it."
        )
    training = storage.read_json(folder / "training.json")
    try:
        config = GPTConfig.from_dict(described["model"])
        return Checkpoint(folder, config, training, BaseModelRef(**base) if base else None)
    except (KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{folder}/config.json does not describe a model as this version of Handloom does: {reason}.",
            _OTHER_VERSION,
        ) from None
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error.problem}", error.remedy) from None


@torch.no_grad()
def fingerprint(model: GPT) -> str:
    """Identifies a model among others of its shape: a digest of names, shapes and a sample of each tensor.

    Up to 4,096 numbers of each, evenly spaced: fast at any size, and training changes nearly all of them.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        step = max(1, tensor.numel() // 4096)
        places = torch.arange(0, tensor.numel(), step)
        sample = tensor[torch.unravel_index(places, tensor.shape)]  # whatever the tensor's strides
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + sample.float().numpy().tobytes())
    return digest.hexdigest()


def step_folder(run: Path, step: int) -> Path:
    """The folder of a run's checkpoint at that step."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def steps(run: Path) -> list[int]:
    """The steps of a run's checkpoint folders, ascending."""
    names = [path.name for path in (run / CHECKPOINTS).glob("step-*") if path.is_dir()]
    return sorted(int(name[5:]) for name in names if name[5:].isdigit())


def require_run(run: Path) -> None:
    """Raise CheckpointError if `run` is not a folder."""
    if not run.is_dir():
        raise CheckpointError(f"There is no run at {run}.", "Train one with `handloom train`.")


def latest(run: Path) -> tuple[Checkpoint, list[IncompleteError]]:
    """The newest complete checkpoint of a run, and why any newer ones were passed over.

    Raises CheckpointError when there is none; or the newest is one that this version does not read.
    """
    require_run(run)
    passed_over: list[IncompleteError] = []
    for step in reversed(steps(run)):
        try:
            return open_checkpoint(step_folder(run, step)), passed_over
        except IncompleteError as error:
            passed_over.append(error)
    if passed_over:
        raise CheckpointError(
            f"The run {run} has no complete checkpoint. The newest: {passed_over[0].problem}",
            "Copy the run again from where it came, or train it again with `overwrite=true`.",
        )
    raise CheckpointError(
        f"The run {run} does not have a checkpoint yet.",
        "Begin it again with `overwrite=true`, or name another folder.",
    )


def prune(run: Path, keep: int, best: int | None) -> None:
    """Remove a run's checkpoints but for the last `keep`, the one of step `best`, and those that other runs need."""
    needed = ownership.dependents(run)
    for step in steps(run)[:-keep]:
        folder = step_folder(run, step)
        if step != best and folder.name not in needed:
            shutil.rmtree(folder, ignore_errors=True)


def set_aside(run: Path, beyond: int) -> list[Path]:
    """Rename the checkpoints of a run whose step is larger than `beyond`; returns where they are now."""
    moved = []
    for folder in [step_folder(run, step) for step in steps(run) if step > beyond]:
        number = 1
        while (kept := folder.with_name(f"{ownership.SET_ASIDE}{folder.name}-{number}")).exists():
            number += 1
        with storage.explaining_os_errors(kept):
            os.rename(folder, kept)
        moved.append(kept)
    return moved


def assign_weights(model: GPT, weights: dict[str, Tensor], origin: Path) -> None:
    """Make these tensors the parameters of `model`, without a copy.

    Raises CheckpointError naming a tensor that is missing, unknown, or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    require_same_shapes(expected, found, origin, "The weights do not belong to this config.json.")
    model.load_state_dict(weights, assign=True)
