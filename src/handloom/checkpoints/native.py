"""A run's checkpoints: everything needed to use a model, and to go on training it to the last bit.

    runs/NAME/checkpoints/step-00000400/
        config.json              the shape of the model
        model.safetensors        its weights, float32, each stored once
        tokenizer/               vocab.json and merges.txt
        optimizer.safetensors    the optimizer's memory   (absent in a model that only writes)
        training.json            step, schedule, versions
        manifest.json            size and checksum of each of them

A run that was tuned with LoRA keeps, in place of model.safetensors, the two files of an adapter in PEFT's format
(`peft`); config.json then names the model that it lies beside, and how that is recognized.

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

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from handloom import ownership, storage
from handloom.checkpoints.memory import require_memory
from handloom.errors import CheckpointError, ConfigError, IncompleteError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.base import Tokenizer

FORMAT = "handloom-checkpoint"
VERSION = 1
CHECKPOINTS = ownership.CHECKPOINTS


@dataclass(frozen=True)
class BaseModelRef:
    """The model that an adapter lies beside."""

    name: str
    """As it was named when the tuning began."""
    fingerprint: str
    """Of its weights, from `fingerprint`."""
    checkpoint: str | None = None
    """The name of its checkpoint folder, if it was a run."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk that has been found whole."""

    folder: Path
    config: GPTConfig
    training: dict[str, Any]
    base: BaseModelRef | None = None
    """If what it keeps is an adapter: the model that it lies beside."""

    def load_model(self) -> GPT:
        """The model, ready to use; its weights are read once and not copied. Not for an adapter."""
        assert self.base is None
        require_memory(self.config, self.folder)
        with torch.device("meta"):
            model = GPT(self.config)
        weights = read_tensors(self.folder / "model.safetensors")
        assign_weights(model, weights, self.folder)
        return model.eval()

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with.

        Raises:
            CheckpointError: when it is not the one whose fingerprint the checkpoint names.
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
        """The optimizer's memory, tensors by name."""
        return read_tensors(self.folder / "optimizer.safetensors")


def save(
    folder: Path,
    model: GPT,
    tokenizer: Tokenizer,
    training: Mapping[str, Any],
    optimizer: Mapping[str, Tensor] | None = None,
    adapter: tuple[BaseModelRef, Callable[[Path], None]] | None = None,
) -> None:
    """Write a checkpoint to `folder`: wholly or not at all.

    Args:
        folder: its place, for example from `step_folder`.
        model: whose weights are saved; a tied head is stored once.
        tokenizer: saved beside the weights.
        training: JSON values to come back to: step, schedule, settings.
        optimizer: its state tensors by name; without them training cannot go on from here.
        adapter: if only that is saved: what it lies beside, and what writes its files into a folder.

    Raises:
        CheckpointError: when the disk refuses.
    """
    weights = dict(model.state_dict()) if adapter is None else {}
    size = sum(t.numel() * t.element_size() for t in (*weights.values(), *(optimizer or {}).values()))
    described: dict[str, Any] = {"format": FORMAT, "version": VERSION, "model": model.config.to_dict()}
    with storage.atomic_folder(folder, size + (4 << 20)) as aside:
        if adapter is None:
            write_tensors(aside / "model.safetensors", weights)
        else:
            base, write = adapter
            described["adapter"] = dataclasses.asdict(base)
            write(aside)
        storage.write_json(aside / "config.json", described)
        (aside / "tokenizer").mkdir()
        tokenizer.save(aside / "tokenizer")
        if optimizer is not None:
            write_tensors(aside / "optimizer.safetensors", optimizer)
        storage.write_json(aside / "training.json", {**training, "tokenizer": tokenizer.fingerprint})


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify what lies in `folder`; every byte is compared with its checksum.

    Raises:
        CheckpointError: when it is missing, torn, damaged, or written by something else.
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
            "Use the version of Handloom that wrote it, or name an earlier checkpoint of the run.",
        )
    weights = "adapter_model.safetensors" if described.get("adapter") else "model.safetensors"
    storage.verify_folder(folder, ("config.json", "training.json", weights))
    if described.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder}/config.json is not of a Handloom checkpoint.", "Name a run folder or a checkpoint inside it."
        )
    beside = described.get("adapter")
    training = storage.read_json(folder / "training.json")
    try:
        base = BaseModelRef(**beside) if beside else None
        return Checkpoint(folder, GPTConfig.from_dict(described["model"]), training, base)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}/config.json does not describe a model as this version of Handloom does: "
            f"{f'{error} is missing' if isinstance(error, KeyError) else error}.",
            "Use the version of Handloom that wrote it, or name an earlier checkpoint of the run.",
        ) from None
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error.problem}", error.remedy) from None


@torch.no_grad()
def fingerprint(model: GPT) -> str:
    """What tells a model from others of its shape: a digest over names, shapes and a sample of each tensor.

    Up to 4,096 numbers of each, evenly spaced: quick for any size, and training changes nearly all of them.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        step = max(1, tensor.numel() // 4096)
        places = torch.arange(0, tensor.numel(), step)
        sample = tensor[torch.unravel_index(places, tensor.shape)]  # whichever way the tensor lies in memory
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + sample.float().numpy().tobytes())
    return digest.hexdigest()


def step_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of that step lies in a run."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def steps(run: Path) -> list[int]:
    """The steps of which the run has a checkpoint folder, ascending."""
    names = [path.name for path in (run / CHECKPOINTS).glob("step-*") if path.is_dir()]
    return sorted(int(name[5:]) for name in names if name[5:].isdigit())


def require_run(run: Path) -> None:
    """Raise CheckpointError if there is no folder at `run`."""
    if not run.is_dir():
        raise CheckpointError(f"There is no run at {run}.", f"Train one with: handloom train --run {run}")


def latest(run: Path) -> tuple[Checkpoint, list[IncompleteError]]:
    """The newest checkpoint of a run that is whole, and why any newer ones were passed over.

    Raises:
        CheckpointError: when there is no run, or it has no whole checkpoint; or the newest is one that this version
            does not read.
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
            f"The run {run} has no whole checkpoint. The newest: {passed_over[0].problem}",
            "Copy the run again from where it came, or train it again with --overwrite.",
        )
    raise CheckpointError(
        f"The run {run} has no checkpoint yet.", "Begin it again with --overwrite, or name another folder."
    )


def prune(run: Path, keep: int, best: int | None) -> None:
    """Remove checkpoints of a run: not the last `keep`, the one of step `best`, and those that other runs need."""
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
    """Give `model` these very tensors, without a copy.

    Raises:
        CheckpointError: when a name is missing or unknown, or a shape differs; names it.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() ^ weights.keys()):
        side = "is missing" if name in expected else "is of no use here"
        raise CheckpointError(
            f"In {origin} the tensor {name} {side}.", "The weights do not belong to this config.json."
        )
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"In {origin} the tensor {name} has shape {tuple(weights[name].shape)} instead of {shape}.",
                "The weights do not belong to this config.json.",
            )
    model.load_state_dict(weights, assign=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name to a safetensors file."""
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except safetensors.SafetensorError as error:
        raise as_os_error(error) from error


def read_tensors(path: Path, remedy: str = "Use an earlier checkpoint of the run.") -> dict[str, Tensor]:
    """Read a safetensors file, memory-mapped.

    Args:
        path: the file.
        remedy: what to do when it cannot be read.

    Raises:
        CheckpointError: when it is missing or not such a file.
    """
    storage.require_content(path)
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", remedy) from None


def as_os_error(error: Exception) -> OSError:
    """safetensors wraps the disk's refusal in its own error; find the number again."""
    import errno
    import re

    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number.group(1)) if number else errno.EIO, str(error))
