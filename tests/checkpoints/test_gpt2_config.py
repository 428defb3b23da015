"""GPT-2's config.json: every key is honoured, known to change nothing, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from handloom.checkpoints.families.gpt2 import GPT2
from handloom.checkpoints.hf_config import overlooked, read_config, write_config
from handloom.errors import CheckpointError
from handloom.model.config import PRESETS, GPTConfig

PATH = Path("model/config.json")
KEYS = GPT2.keys
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
        ({"n_inner": 99}, {"ffn_dim": 99}),
        ({"layer_norm_epsilon": 0.5}, {"norm_eps": 0.5}),
        ({"scale_attn_weights": False}, {"scale_attention_weights": False}),
        ({"scale_attn_by_inverse_layer_idx": True}, {"scale_attention_by_inverse_layer": True}),
        ({"tie_word_embeddings": False}, {"tie_embeddings": False}),
        ({"activation_function": "relu"}, {"activation": "relu"}),
        ({"activation_function": "gelu"}, {"activation": "gelu"}),
        ({"activation_function": "gelu_pytorch_tanh"}, {"activation": "gelu_tanh"}),
        ({"hidden_size": 48, "max_position_embeddings": 7}, {"embed_dim": 48, "context_length": 7}),
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
        ({"layer_norm_epsilon": None}, "norm_eps is None"),
        ({"scale_attn_weights": 1}, "scale_attention_weights is 1"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused_by_name(change, words):
    with pytest.raises(CheckpointError) as refused:
        read(**change)
    assert words in str(refused.value)
    assert "config.json" in str(refused.value)


def test_everything_that_stands_in_the_way_is_named_at_once():
    with pytest.raises(CheckpointError) as refused:
        read(rope_theta=10000, sliding_window=4096, activation_function="silu", add_cross_attention=True, n_ctx=5)
    for key in ("rope_theta", "sliding_window", "activation_function", "add_cross_attention", "n_ctx"):
        assert f"{key} is " in refused.value.problem
    with pytest.raises(CheckpointError, match="If it is a mere remark, remove rope_theta and sliding_window"):
        read(rope_theta=10000, sliding_window=4096)


LEFTOVERS = {  # of other architectures and of training programs, as files on the hub have them
    "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "hidden_act": "gelu_new", "type_vocab_size": 2,
    "intermediate_size": 3072, "layer_norm_eps": 1e-05, "position_embedding_type": "absolute",
    "eos_token_ids": [50256], "unk_token_id": 0, "cls_token_id": 1, "mask_token_id": 2, "unsloth_version": "2025.3",
    "attention_dropout": 0.1, "classifier_dropout": 0.1, "tie_encoder_decoder": True, "gradient_checkpointing": True,
    "min_p": 0.1, "initializer_factor": 1.0, "transformers.js_config": {"dtype": "q8"},
}  # fmt: skip


@pytest.mark.parametrize("key", LEFTOVERS)
def test_what_gpt2_does_not_look_at_is_no_obstacle(key):
    assert read(**{key: LEFTOVERS[key]}) == read()
    assert overlooked(LEFTOVERS, read(), PATH) == []


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ({"hidden_act": "relu"}, "activation_function, which is 'gelu_new'"),
        ({"intermediate_size": 99}, "n_inner, which is 3072"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_epsilon, which is 1e-05"),
    ],
)
def test_a_key_of_another_architecture_that_says_otherwise_gets_a_note(values, counts):
    config = read(**values)
    assert config == read()  # as transformers computes it
    (note,) = overlooked(values, config, PATH)
    assert note.endswith(f"ignored in favour of {counts}.")


@pytest.mark.parametrize(
    "values",
    [
        {"architectures": ["GPT2LMHeadModel"]},
        {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_ctx": 1024, "n_positions": 1024},
        {"model_type": "gpt2", "architectures": ["TFGPT2LMHeadModel"]},
        {"model_type": "gpt2", "architectures": ["GPT2DoubleHeadsModel"]},
        {"model_type": "gpt2", "architectures": ["GPT2HeadWithValueModel"]},
    ],
)
def test_old_files_and_other_heads_describe_a_gpt2(values):
    assert read_config(values, PATH) == GPTConfig(dropout=0.1)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"architectures": ["T5Model"], "n_embd": 768, "n_head": 12, "n_layer": 12},
        {"vocab_size": 50257, "n_layer": 12},
    ],
)
def test_a_file_that_names_neither_type_nor_class_nor_gpt2s_sizes_is_refused(values):
    with pytest.raises(CheckpointError, match="a model of type None"):
        read_config(values, PATH)


def test_the_first_gpt_is_refused_by_its_own_key():
    with pytest.raises(CheckpointError, match="afn is 'gelu'; only the first GPT has that key"):
        read_config({"n_embd": 768, "n_head": 12, "n_layer": 12, "afn": "gelu"}, PATH)


@pytest.mark.parametrize("nothing", [None, False, {}, []])
def test_an_unknown_key_that_says_nothing_is_no_obstacle(nothing):
    assert read(never_heard_of=nothing) == read()


def test_no_key_is_in_two_lists():
    lists = [
        set(KEYS.fields),
        set(KEYS.aliases),
        set(KEYS.no_effect),
        set(KEYS.overlooked),
        set(KEYS.refused),
        set(KEYS.same_as),
        set(KEYS.only),
        {KEYS.activation, "model_type", "architectures"},
    ]
    assert sum(map(len, lists)) == len(set().union(*lists))


@pytest.mark.parametrize(
    "config",
    [
        *PRESETS.values(),
        GPTConfig(dropout=0.2, attention_dropout=0.0),
        *(GPTConfig(activation=name, tie_embeddings=False, ffn_dim=5) for name in set(KEYS.activations.values())),
    ],
)
def test_ours_written_and_read_again_is_the_same(config):
    again = read_config(write_config(config, 0), PATH)
    assert again.dropouts == config.dropouts
    plain = {"dropout": 0.0, "embedding_dropout": None, "attention_dropout": None, "residual_dropout": None}
    assert again.to_dict() | plain == config.to_dict() | plain
