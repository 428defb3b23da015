"""GPT-2's config.json: every key is honoured, known to change nothing, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from handloom.checkpoints.gpt2_config import (
    ACTIVATIONS,
    ALIASES,
    FIELDS,
    NO_EFFECT,
    read_config,
    write_config,
)
from handloom.errors import CheckpointError
from handloom.model.config import PRESETS, GPTConfig

PATH = Path("model/config.json")
ORIGINAL = {  # as GPT-2's own folder has it
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}


def read(**changes):
    return read_config({"model_type": "gpt2", **changes}, PATH)


def test_gpt2s_own_file_is_our_preset():
    assert read_config(ORIGINAL, PATH) == GPTConfig(dropout=0.1)


def test_what_is_left_out_has_gpt2s_default():
    assert read() == GPTConfig(dropout=0.1)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"n_inner": 99}, {"inner_width": 99}),
        ({"layer_norm_epsilon": 0.5}, {"layer_norm_epsilon": 0.5}),
        ({"scale_attn_weights": False}, {"scale_attention_weights": False}),
        ({"scale_attn_by_inverse_layer_idx": True}, {"scale_attention_by_inverse_layer": True}),
        ({"tie_word_embeddings": False}, {"tied_head": False}),
        ({"activation_function": "relu"}, {"activation": "relu"}),
        ({"activation_function": "gelu"}, {"activation": "gelu"}),
        ({"activation_function": "gelu_pytorch_tanh"}, {"activation": "gelu_tanh"}),
        ({"hidden_size": 48, "max_position_embeddings": 7}, {"width": 48, "context": 7}),
        ({"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}, {"dropout": 0.0}),
    ],
)
def test_what_changes_the_computation_is_honoured(theirs, ours):
    assert read(**theirs) == GPTConfig(**{"dropout": 0.1, **ours})


def test_dropouts_that_differ_are_kept_apart():
    config = read(attn_pdrop=0.3, embd_pdrop=0.2)
    assert config.dropouts == (0.2, 0.3, 0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, "a model of type 'bert'"),
        ({"architectures": ["GPT2ForTokenClassification"]}, "architectures"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
        ({"activation_function": "silu"}, "activation_function is 'silu'"),
        ({"activation_function": ["relu"]}, "activation_function"),
        ({"rope_theta": 10000}, "rope_theta"),
        ({"n_ctx": 512}, "n_ctx is 512"),
        ({"n_embd": 768, "hidden_size": 512}, "hidden_size is 512"),
        ({"n_head": 7}, "heads 7"),
        ({"n_layer": "12"}, "layers is '12'"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"attn_pdrop": 1.5}, "attention_dropout is 1.5"),
        ({"attn_pdrop": "no"}, "attention_dropout is 'no'"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon is None"),
        ({"scale_attn_weights": 1}, "scale_attention_weights is 1"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused_by_name(change, words):
    with pytest.raises(CheckpointError) as refused:
        read(**change)
    assert words in str(refused.value)
    assert "config.json" in str(refused.value)


@pytest.mark.parametrize("nothing", [None, False, {}, []])
def test_an_unknown_key_that_says_nothing_is_no_obstacle(nothing):
    assert read(never_heard_of=nothing) == read()


def test_no_key_is_in_two_lists():
    lists = [
        set(FIELDS),
        set(ALIASES),
        set(NO_EFFECT),
        {"activation_function", "model_type", "architectures", "n_ctx"},
    ]
    assert sum(map(len, lists)) == len(set().union(*lists))


@pytest.mark.parametrize(
    "config",
    [
        *PRESETS.values(),
        GPTConfig(dropout=0.2, attention_dropout=0.0),
        *(GPTConfig(activation=name, tied_head=False, inner_width=5) for name in set(ACTIVATIONS.values())),
    ],
)
def test_ours_written_and_read_again_is_the_same(config):
    again = read_config(write_config(config, 0), PATH)
    assert again.dropouts == config.dropouts
    plain = {"dropout": 0.0, "embedding_dropout": None, "attention_dropout": None, "residual_dropout": None}
    assert again.to_dict() | plain == config.to_dict() | plain
