"""Presets have the published sizes; a shape that cannot be built is refused by name."""

from __future__ import annotations

import pytest

from handloom.errors import ConfigError
from handloom.model.config import PRESETS, GPTConfig, preset
from handloom.model.gpt import GPT
from handloom.model.summary import model_summary, parameter_count
from handloom.model.surgery import set_attention


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("gpt2-16l", 152_791_296),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, parameters):
    assert parameter_count(preset(name)) == parameters


@pytest.mark.parametrize("name", ["nano", "micro", "gpt2"])
@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("labels", [(), ("ham", "spam", "eggs")])
def test_anatomy_counts_what_the_model_holds(name, tie_embeddings, labels):
    import dataclasses

    import torch

    config = dataclasses.replace(PRESETS[name], tie_embeddings=tie_embeddings, label_names=labels)
    with torch.device("meta"):
        model = GPT(config)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(config)


def test_flops_agree_with_those_that_pytorch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = GPTConfig(vocab_size=300, context_length=64, layers=3, heads=4, embed_dim=32)
    model = GPT(config)
    set_attention(model, "eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 64, dtype=torch.int64))
    # PyTorch counts products only, and all 64 positions for each query, masked or not.
    products = [part for part in model_summary(config, position=64) if part.name != "LayerNorm"]
    assert counter.get_total_flops() == 64 * sum(part.flops for part in products)


def test_dictionary_round_trip():
    config = GPTConfig(vocab_size=99, ffn_dim=7, tie_embeddings=False)
    assert GPTConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"embed_dim": 100, "heads": 3}, "heads 3"),
        ({"layers": 0}, "layers is 0"),
        ({"context_length": 1.5}, "context_length is 1.5"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"norm_eps": 0.0}, "norm_eps"),
    ],
)
def test_a_shape_without_meaning_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        GPTConfig(**values)


def test_an_unknown_key_or_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="'layers'"):
        GPTConfig.from_dict({"layer": 3})
    with pytest.raises(ConfigError, match="'gpt2-medium'"):
        preset("gpt2-medum")
