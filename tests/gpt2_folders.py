"""Small GPT-2 folders, written without transformers: the format by hand, in all its forms."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from handloom.checkpoints.hf_config import write_config
from handloom.checkpoints.hf_folder import to_hf
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

CONFIG = GPTConfig(vocab_size=280, context_length=16, layers=2, heads=2, embed_dim=8)


def random_model(config: GPTConfig = CONFIG, seed: int = 0) -> GPT:
    """Every number random, so that no two tensors can be taken for each other."""
    model, generator = GPT(config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model


def theirs(model: GPT) -> dict[str, Tensor]:
    """Its tensors as GPT-2 stores them, each in memory of its own."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in to_hf(model).items()}


def write(folder: Path, model: GPT, tensors: dict[str, Tensor] | None = None, form: str = "safetensors") -> Path:
    """A folder of that form: safetensors, sharded, bin, bin-sharded, or bin-old (of before PyTorch 1.6)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = theirs(model) if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(write_config(model.config, 0)), encoding="utf-8")
    if form == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    elif form == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif form == "bin-old":
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        stem, suffix = ("model", "safetensors") if form == "sharded" else ("pytorch_model", "bin")
        places = {}
        for number in range(3):
            part = dict(list(tensors.items())[number::3])
            name = f"{stem}-{number + 1:05d}-of-00003.{suffix}"
            places |= dict.fromkeys(part, name)
            if form == "sharded":
                save_file(part, folder / name)
            else:
                torch.save(part, folder / name)
        write_index(folder / f"{stem}.{suffix}.index.json", places)
    return folder


def write_index(path: Path, places: dict[str, str]) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")


def edit_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | changes), encoding="utf-8")
