"""The real shapes of GPT-2, with random weights: the same scores and the same text as transformers."""

from __future__ import annotations

import pytest
import torch
from published import saved, sharpened, tokens
from transformers import GPT2Config

from decoding import generated
from handloom.checkpoints import hf_folder
from handloom.checkpoints.families.gpt2 import GPT2
from handloom.inference.generation_config import GenerationConfig
from handloom.inspection import activations
from handloom.model.loss import next_token_loss

SHAPES = {"124M": {}, "355M": {"n_layer": 24, "n_head": 16, "n_embd": 1024}}


@pytest.fixture(scope="module", params=["124M", pytest.param("355M", marks=pytest.mark.slow)], ids=lambda name: name)
def pair(request, tmp_path_factory):
    config = GPT2Config(**SHAPES[request.param], embd_pdrop=0, attn_pdrop=0, resid_pdrop=0)
    theirs = sharpened(config, deviation=0.06)
    theirs.set_attn_implementation("sdpa")
    folder = saved(theirs, tmp_path_factory.mktemp("real"))
    yield theirs, hf_folder.open_folder(folder).load_model()
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("length", [1, 2, 63, pytest.param(512, marks=pytest.mark.slow), 1024])
def test_scores_are_the_same(pair, length):
    theirs, ours = pair
    x = tokens(theirs.config, 1, length, seed=length)
    with torch.no_grad():
        expected, found = theirs(x).logits, ours(x)
    assert expected.std() > 1
    assert (found - expected).abs().max().item() <= 1e-4


def test_two_hundred_greedy_tokens_are_the_same(pair):
    theirs, ours = pair
    x = tokens(theirs.config, 1, 8)
    expected = theirs.generate(
        x, attention_mask=torch.ones_like(x), max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, 8:].tolist()
    (found,) = generated(ours, x.tolist(), GenerationConfig(max_new_tokens=200, temperature=0))
    assert len(set(found)) > 20  # a text that repeats itself would say little
    assert found == expected


@pytest.mark.slow
def test_layers_loss_and_gradients_are_the_same(pair):
    theirs, ours = pair
    x = tokens(theirs.config, 1, 64)
    theirs.set_attn_implementation("eager")
    differences = activations.compare(activations.activations(ours, x), activations.reference_activations(theirs, x))
    assert len(differences) == 3 + 6 * theirs.config.n_layer
    assert activations.first_difference(differences, 1e-4) is None
    their_loss = theirs(x, labels=x).loss
    their_loss.backward()
    loss, count = next_token_loss(ours.hidden(x[:, :-1]), ours.lm_head, x[:, 1:])
    (loss / count).backward()
    assert loss.item() / count == pytest.approx(their_loss.item(), rel=1e-5)
    gradients = {name.removeprefix(GPT2.tensors.prefix): p.grad for name, p in theirs.named_parameters()}
    mine = {name: p.grad for name, p in ours.named_parameters()}
    for name in GPT2.tensors.of(ours.config):
        expected = gradients[name.theirs].T if name.transposed else gradients[name.theirs]
        assert (mine[name.ours] - expected).norm() <= 1e-4 * expected.norm().clamp(min=1e-6), name
    ours.zero_grad(set_to_none=True)
    theirs.zero_grad(set_to_none=True)
