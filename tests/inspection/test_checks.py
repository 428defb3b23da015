"""Each check passes a sound model, and fails when the very thing that it looks at is broken."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from random_models import random_model
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from handloom.checkpoints import hf_export, hf_folder
from handloom.checkpoints.families import ParamMap
from handloom.checkpoints.families.gpt2 import GPT2
from handloom.errors import ModelError
from handloom.inference import batch
from handloom.inference.language_model import LanguageModel
from handloom.inspection import activations
from handloom.inspection.verify import verify
from handloom.loading import load
from handloom.model import attention
from handloom.model.config import GPTConfig
from handloom.model.embedding import Embedding
from handloom.model.kv_cache import KVCache, LayerCache
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.gpt2 import TiktokenTokenizer


def checks(lm, **more):
    return {check.name: check for check in verify(lm, **more)}


def failed(lm):
    return {check.name for check in verify(lm) if check.passed is False}


def test_a_sound_model_passes_everything(lm):
    done = checks(lm)
    unchecked = {"golden values"} | (
        set() if activations.has_reference() else {"ours = transformers", "ids = transformers"}
    )
    assert {name for name, check in done.items() if check.passed is None} == unchecked
    assert {name for name, check in done.items() if check.passed is False} == set()
    assert len(done) == 10


@pytest.mark.parametrize("context_length", [1, 2, 3, 5])
@pytest.mark.parametrize("tied", [True, False])
def test_contexts_of_any_length_can_be_verified(tokenizer, context_length, tied):
    config = GPTConfig(
        vocab_size=290, context_length=context_length, layers=1, heads=2, embed_dim=8, tie_embeddings=tied
    )
    assert failed(LanguageModel(random_model(config), tokenizer)) == set()


def test_nothing_is_allowed_with_a_tolerance_of_nothing(lm):
    done = checks(lm, tolerance=0.0)
    assert done["sdpa = eager"].passed is False
    assert ", at (" in done["sdpa = eager"].detail


# Each subject, broken. What is patched is ours, never the check.


def test_ids_of_tiktoken_that_are_not_those_by_hand(lm, monkeypatch):
    real = TiktokenTokenizer.encode
    monkeypatch.setattr(TiktokenTokenizer, "encode", lambda self, text, **how: real(self, text, **how)[::-1])
    assert failed(lm) == {"tokenizer = tiktoken", "ids = transformers"}


def test_a_text_that_does_not_come_back(lm, monkeypatch):
    real = TiktokenTokenizer.decode
    monkeypatch.setattr(TiktokenTokenizer, "decode", lambda self, ids: real(self, ids).strip())
    assert failed(lm) == {"tokenizer = tiktoken"}


def test_a_look_ahead(lm, monkeypatch):
    """Both ways to attend look one token ahead, so they agree with each other."""
    monkeypatch.setattr(
        attention, "causal_mask", lambda T, S, device=None: torch.ones(T, S, dtype=torch.bool).tril(S - T + 1)
    )
    monkeypatch.setattr(attention, "sdpa_attention", attention.eager_attention)
    assert failed(lm) >= {"causality"}
    assert "sdpa = eager" not in failed(lm)


def test_a_kernel_without_its_mask(lm, monkeypatch):
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F,
        "scaled_dot_product_attention",
        lambda *parts, is_causal=False, **more: real(*parts, is_causal=False, **more),
    )
    assert failed(lm) >= {"causality", "sdpa = eager", "cached = uncached"}


def test_a_spelled_out_attention_with_another_scale(lm, monkeypatch):
    real = attention.attention_scores
    monkeypatch.setattr(attention, "attention_scores", lambda q, k, *more: real(q * 1.1, k, *more))
    assert failed(lm) == {"sdpa = eager", "ours = transformers"}


def test_a_cache_that_forgets_the_newest(lm, monkeypatch):
    def append(self, k, v):
        keys, values = real(self, k, v)
        return keys.roll(1, -2), values

    real = LayerCache.update
    monkeypatch.setattr(LayerCache, "update", append)
    assert failed(lm) >= {"cached = uncached"}
    assert failed(lm) <= {"cached = uncached", "batch = single", "decode after overflow"}


def test_positions_that_begin_anew_behind_a_cache(lm, monkeypatch):
    real = Embedding.forward
    monkeypatch.setattr(Embedding, "forward", lambda self, tokens, start=0: real(self, tokens))
    assert failed(lm) >= {"cached = uncached"}


def test_rows_that_see_each_other(lm, monkeypatch):
    real = Embedding.forward

    def forward(self, tokens, start=0):
        x = real(self, tokens, start)
        return x + 0.1 * x.mean(dim=0, keepdim=True)

    monkeypatch.setattr(Embedding, "forward", forward)
    assert failed(lm) >= {"batch = single"}


def test_rows_of_different_lengths_whose_padding_is_seen(lm, monkeypatch):
    monkeypatch.setattr(KVCache, "mask", lambda self, T: None)
    assert failed(lm) == {"batch = single"}


def test_a_window_that_slides_by_one(lm, monkeypatch):
    monkeypatch.setattr(
        batch, "window_start", lambda length, context_length: length - context_length if length > context_length else 0
    )
    assert failed(lm) == {"decode after overflow"}


def test_an_export_that_loses_a_bit(lm, monkeypatch):
    real = hf_folder.to_hf

    def harmed(model):
        tensors = real(model)
        return {**tensors, "transformer.ln_f.bias": tensors["transformer.ln_f.bias"].nextafter(torch.ones(()))}

    monkeypatch.setattr(hf_export, "to_hf", harmed)
    done = checks(lm)
    assert done["export and import"].passed is False
    assert done["export and import"].detail == "final_norm.bias differs"


def test_an_export_that_turns_minus_zero_into_zero(lm, monkeypatch):
    real = hf_folder.to_hf
    with torch.no_grad():
        lm.model.final_norm.bias[3] = -0.0
    assert checks(lm)["export and import"].passed is True
    monkeypatch.setattr(hf_export, "to_hf", lambda model: {n: t + 0.0 for n, t in real(model).items()})
    assert checks(lm)["export and import"].passed is False


def test_an_export_with_another_tokenizer(lm, monkeypatch):
    real = hf_export._write_tokenizer
    other = load_tokenizer("gpt2")
    monkeypatch.setattr(hf_export, "_write_tokenizer", lambda folder, tokenizer, *more: real(folder, other, *more))
    done = checks(lm)["export and import"]
    assert done.passed is False
    assert "tokenizer" in done.detail


def test_weights_that_are_no_numbers(lm):
    with torch.no_grad():
        lm.model.blocks[0].feedforward.up.bias[0] = torch.nan
    done = checks(lm)
    assert done["sdpa = eager"].passed is False
    assert done["batch = single"].passed is False
    assert "finite" in done["batch = single"].detail


def test_a_check_that_cannot_be_ended_fails(lm, monkeypatch):
    def fail(*_):
        raise ModelError("It is not to be.", "Nothing helps.")

    monkeypatch.setattr("handloom.inspection.verify.set_attention", fail)
    assert checks(lm)["sdpa = eager"].detail == "It is not to be."


# Against transformers: what only another program can see


pytest_transformers = pytest.mark.skipif(not activations.has_reference(), reason="needs transformers")


def half_turned(model):
    """The square matrices are left as they are, and so fit the wrong way round."""
    return tuple(
        ParamMap(name.ours, name.theirs, name.transposed and name.ours != "attention.out.weight")
        for name in GPT2.tensors.in_block
    )


@pytest_transformers
@pytest.mark.parametrize(
    ("what", "first"),
    [
        ("GELU", "blocks.1.feedforward.out"),
        ("square", "blocks.0.attention.out"),
        ("epsilon", "final_norm"),
        ("head", "logits"),
        ("scale", "blocks.1.attention.pattern"),
        ("positions", "blocks.0.resid_pre"),
        ("norm", "blocks.0.attention_norm"),
        ("residual", "blocks.0.resid_post"),
    ],
)
@pytest.mark.parametrize("read", [False, True])
def test_another_computation_is_named_by_its_first_activation(lm, exported, monkeypatch, what, first, read):
    """For a model in memory, whose export is compared, and for one that was read from a folder."""
    if what == "square":
        tensors = dataclasses.replace(GPT2.tensors, in_block=half_turned(lm.model))
        monkeypatch.setattr(hf_folder, "GPT2", dataclasses.replace(GPT2, tensors=tensors))
    subject = load(exported) if read else lm
    model = subject.model
    if what == "GELU":
        model.blocks[1].feedforward.activation = torch.nn.GELU()
    elif what == "epsilon":
        model.final_norm.eps = 1e-2
    elif what == "head":
        model.lm_head = nn.Linear(8, 300, bias=False).eval()  # untied, though its config says tied
        with torch.no_grad():
            model.lm_head.weight.copy_(model.embedding.token_embedding.weight.roll(1, 0))
    elif what == "scale":
        model.blocks[1].attention.core.scale *= 1.01
    elif what == "positions":
        monkeypatch.setattr(
            model.embedding.position_embedding, "forward", lambda p: model.embedding.position_embedding.weight[p - 1]
        )
    elif what == "norm":
        model.blocks[0].attention_norm.forward = lambda x: F.layer_norm(x, (8,))
    elif what == "residual":
        model.blocks[0].register_forward_hook(lambda block, args, output: output * 1.001)
    done = checks(subject)["ours = transformers"]
    assert done.passed is False
    assert f"first differs: {first}," in done.detail


@pytest_transformers
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 0.1),
        ("scale_attn_by_inverse_layer_idx", True),
        ("scale_attn_weights", False),
    ],
)
def test_a_setting_that_reading_and_writing_overlook_alike(exported, monkeypatch, key, value):
    """Our own export of such a model would agree with us: the folder that was read is what has to be compared."""
    from handloom.checkpoints import hf_config

    path = exported / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), key: value}), encoding="utf-8")
    assert checks(load(exported))["ours = transformers"].passed is True
    real = hf_config.read_config
    monkeypatch.setattr(
        hf_folder, "read_config", lambda values, path: real({k: v for k, v in values.items() if k != key}, path)
    )
    done = checks(load(exported))
    assert done["ours = transformers"].passed is False
    assert done["export and import"].passed is True


def bare(model):
    """Its tensors under GPT-2's names, without the head and the prefix that came later, and with the old masks."""
    tensors = {name.removeprefix("transformer."): t.clone().contiguous() for name, t in hf_folder.to_hf(model).items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 16, 16, dtype=torch.uint8).tril() for i in range(2)}
    return tensors | masks | {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}


@pytest_transformers
@pytest.mark.parametrize("form", ["bin", "bin-old", "half", "bare"])
def test_a_folder_of_any_form_is_read_as_transformers_reads_it(lm, exported, form):
    """The folder itself is compared, so transformers has to understand all that we do."""
    tensors = {name: t.clone().contiguous() for name, t in hf_folder.to_hf(lm.model).items()}
    weights = exported / "model.safetensors"
    weights.unlink()
    if form == "half":
        save_file({name: t.half() for name, t in tensors.items()}, weights, metadata={"format": "pt"})
    elif form == "bare":
        torch.save(bare(lm.model), exported / "pytorch_model.bin")
    else:
        torch.save(tensors, exported / "pytorch_model.bin", _use_new_zipfile_serialization=form == "bin")
    done = checks(load(exported))
    assert done["ours = transformers"].passed is True, done["ours = transformers"].detail
    assert done["export and import"].passed is True


@pytest_transformers
def test_a_folder_that_transformers_cannot_read_fails(exported):
    lm = load(exported)
    (exported / "other").write_bytes(b"nothing")
    (exported / "other").replace(exported / "model.safetensors")  # not written over: that file is mapped
    done = checks(lm)["ours = transformers"]
    assert done.passed is False
    assert "transformers cannot read" in done.detail
