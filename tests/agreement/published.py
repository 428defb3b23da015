"""GPT-2s with random weights, as transformers makes and saves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="transformers supports no Python as old as this one")

from transformers import GPT2Config, GPT2LMHeadModel


def sharpened(config: GPT2Config, seed: int = 0, deviation: float = 0.08) -> GPT2LMHeadModel:
    """A model whose every weight is random, biases and LayerNorms too, and whose scores are not flat."""
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, deviation, generator=generator)
            if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
                parameter.add_(1.0)
    return model


def saved(model: GPT2LMHeadModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def tokens(config: GPT2Config, batch: int, length: int, seed: int = 1) -> Tensor:
    """(B, T) random ids."""
    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def edit_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
