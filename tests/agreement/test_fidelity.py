"""Each way to misread GPT-2's weights that note 15 shows: `verify` finds it and names the part it is in."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("transformers", reason="transformers supports no Python as old as this one")

import torch
from torch import nn
from torch.nn import functional as F

from handloom.checkpoints import hf_folder
from handloom.checkpoints.families.gpt2 import GPT2
from handloom.checkpoints.hf_export import export_folder
from handloom.inspection.verify import verify
from handloom.loading import load
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.train import train_bpe


def fresh_head(lm):
    fresh = GPT(lm.config, seed=1).lm_head.weight.detach()
    lm.model.unembed = lambda hidden: F.linear(hidden, fresh)


def exact_gelu(lm):
    for block in lm.model.blocks:
        block.feedforward.activation = torch.nn.GELU()


def other_epsilon(lm):
    for module in lm.model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6


def moved_positions(lm):
    def move(_, args):
        tokens, start = (*args, 0)[:2]
        steps = torch.arange(tokens.shape[1])  # (T)
        return tokens, (start + steps + 1) % lm.config.context_length - steps[None]

    lm.model.embedding.register_forward_pre_hook(move)


@pytest.fixture
def folder(tmp_path):
    """The stranger of the note."""
    tokenizer = train_bpe(["the loom, the cloth, the thread"], 261)
    shape = GPTConfig(tokenizer.vocab_size, context_length=64, layers=4, heads=4, embed_dim=64)
    model = GPT(shape, seed=46).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 7 if parameter.ndim == 2 else 1
        model.final_norm.weight *= 3
    export_folder(tmp_path / "stranger", model, tokenizer)
    return tmp_path / "stranger"


def against_transformers(lm):
    (found,) = [check for check in verify(lm) if check.name == "ours = transformers"]
    return found


def test_read_rightly_it_passes(folder):
    assert against_transformers(load(folder)).passed


def test_a_matrix_that_the_table_forgets_to_turn_is_found(folder, monkeypatch):
    """Written out by the same table, it is turned back: so transformers has the file's own weights."""
    in_block = [
        dataclasses.replace(name, transposed=name.transposed and name.theirs != "attn.c_proj.weight")
        for name in GPT2.tensors.in_block
    ]
    assert in_block != list(GPT2.tensors.in_block)
    tensors = dataclasses.replace(GPT2.tensors, in_block=tuple(in_block))
    monkeypatch.setattr(hf_folder, "GPT2", dataclasses.replace(GPT2, tensors=tensors))
    found = against_transformers(load(folder))
    assert found.passed is False
    assert "first differs: blocks.0.attention.out," in found.detail


@pytest.mark.parametrize(
    ("misread", "part"),
    [
        (fresh_head, "logits"),
        (exact_gelu, "blocks.0.feedforward.out"),
        (other_epsilon, "blocks.0.attention_norm"),
        (moved_positions, "blocks.0.resid_pre"),
    ],
)
def test_every_other_misreading_is_found(folder, misread, part):
    lm = load(folder)
    misread(lm)
    found = against_transformers(lm)
    assert found.passed is False
    assert f"first differs: {part}," in found.detail
