"""Our model is GPT-2: transformers computes the same from the same folder, whatever its config.json says."""

from __future__ import annotations

import random

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
from handloom.model.surgery import set_attention

ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu")


def odd_configs():
    """Thirty configurations, among them every special case that the table of names and keys has."""
    chance = random.Random(0)
    shapes = [(1, 20), (25, 50), (3, 33), (4, 64), (2, 70), (5, 40)]  # heads and width
    for number in range(30):
        heads, width = shapes[number % len(shapes)]
        yield GPT2Config(
            vocab_size=chance.choice([13, 97, 256]),
            n_positions=7 if number % 3 == 0 else chance.choice([16, 33]),
            n_layer=chance.choice([1, 2, 3]),
            n_head=heads,
            n_embd=width,
            n_inner=chance.choice([None, 17, width]),
            activation_function=ACTIVATIONS[number % len(ACTIVATIONS)],
            layer_norm_epsilon=chance.choice([1e-5, 1e-3]),
            scale_attn_weights=number % 7 != 1,
            scale_attn_by_inverse_layer_idx=number % 2 == 1,
            reorder_and_upcast_attn=number % 5 == 4,
            tie_word_embeddings=number % 4 < 2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )


@pytest.fixture(params=odd_configs(), ids=lambda config: f"{config.n_head}x{config.n_embd}", scope="module")
def pair(request, tmp_path_factory):
    """transformers' model, and ours read from the folder that it was saved in."""
    theirs = sharpened(request.param, deviation=0.2)
    folder = saved(theirs, tmp_path_factory.mktemp("published"))
    return theirs, hf_folder.open_folder(folder).load_model()


@pytest.mark.parametrize("fused", [False, True])
def test_every_activation_is_the_same(pair, fused):
    theirs, ours = pair
    set_attention(ours, "sdpa" if fused else "eager")
    x = tokens(theirs.config, 2, theirs.config.n_positions)
    differences = activations.compare(activations.activations(ours, x), activations.reference_activations(theirs, x))
    assert len(differences) == 3 + 6 * theirs.config.n_layer
    assert activations.first_difference(differences, 1e-4) is None
    assert differences[-1].name == "logits"
    assert differences[-1].worst <= 1e-4
    assert differences[-1].scale > 1  # or all this would say little
    set_attention(ours, None)


def test_loss_and_every_gradient_are_the_same(pair):
    theirs, ours = pair
    x = tokens(theirs.config, 3, theirs.config.n_positions)
    theirs.zero_grad()
    their_loss = theirs(x, labels=x).loss
    their_loss.backward()
    ours.zero_grad()
    loss, count = next_token_loss(ours.hidden(x[:, :-1]), ours.lm_head, x[:, 1:])
    (loss / count).backward()
    assert loss.item() / count == pytest.approx(their_loss.item(), rel=1e-5)
    gradients = {name.removeprefix(GPT2.tensors.prefix): p.grad for name, p in theirs.named_parameters()}
    mine = {name: p.grad for name, p in ours.named_parameters()}
    compared = 0
    for name in GPT2.tensors.of(ours.config):
        expected = gradients[name.theirs].T if name.transposed else gradients[name.theirs]
        error = (mine[name.ours] - expected).norm() / expected.norm().clamp(min=1e-6)
        assert error <= 1e-4, name
        compared += 1
    assert compared == len(mine) == len(gradients)


def test_greedy_continuations_are_the_same(pair):
    theirs, ours = pair
    x = tokens(theirs.config, 1, 2)
    more = theirs.config.n_positions - 2
    expected = theirs.generate(
        x, attention_mask=torch.ones_like(x), max_new_tokens=more, do_sample=False, pad_token_id=0
    )[0, 2:].tolist()
    assert generated(ours, x.tolist(), GenerationConfig(max_new_tokens=more, temperature=0)) == [expected]


@pytest.mark.parametrize(
    ("harm", "first"),
    [
        ("blocks.1.attention.out.weight", "blocks.1.attention.out"),
        ("blocks.1.attention.qkv.weight", "blocks.1.attention.pattern"),
        ("blocks.0.feedforward.up.bias", "blocks.0.feedforward.out"),
        ("embedding.position_embedding.weight", "blocks.0.resid_pre"),
        ("final_norm.bias", "final_norm"),
    ],
)
def test_the_first_layer_that_differs_is_named(tmp_path, harm, first):
    config = GPT2Config(vocab_size=97, n_positions=16, n_layer=3, n_head=4, n_embd=32, bos_token_id=0, eos_token_id=0)
    theirs = sharpened(config)
    ours = hf_folder.open_folder(saved(theirs, tmp_path)).load_model()
    x = tokens(config, 1, 16)
    reference = activations.reference_activations(theirs, x)
    with torch.no_grad():
        weights = dict(ours.named_parameters())[harm]
        # A square matrix the wrong way round has the right shape; so do rows that are one place off.
        square = weights.ndim == 2 and weights.shape[0] == weights.shape[1]
        weights.copy_(weights.T.clone() if square else weights.roll(1, 0))
    found = activations.first_difference(activations.compare(activations.activations(ours, x), reference))
    assert found is not None
    assert found.name == first
    assert found.worst == pytest.approx(abs(found.ours - found.theirs))


def test_a_nan_is_a_difference(tmp_path):
    config = GPT2Config(vocab_size=13, n_positions=8, n_layer=1, n_head=1, n_embd=8, bos_token_id=0, eos_token_id=0)
    theirs = sharpened(config)
    found = activations.reference_activations(theirs, tokens(config, 1, 8))
    spoiled = {**found, "final_norm": found["final_norm"].index_fill(1, torch.tensor([3]), torch.nan)}
    first = activations.first_difference(activations.compare(spoiled, found), 1e3)
    assert first is not None
    assert (first.name, first.where[:2]) == ("final_norm", (0, 3))


def test_the_language_model_of_a_double_heads_model_is_read_whole(tmp_path):
    from transformers import GPT2DoubleHeadsModel

    config = GPT2Config(vocab_size=97, n_positions=16, n_layer=2, n_head=2, n_embd=16)
    theirs, notes = GPT2DoubleHeadsModel(config).eval(), []
    theirs.save_pretrained(tmp_path)
    ours = hf_folder.open_folder(tmp_path, notes.append).load_model()
    x = tokens(config, 2, 10)
    with torch.no_grad():
        assert (theirs(x).logits - ours(x)).abs().max() < 1e-5
    assert "multiple_choice_head" in notes[-1]
