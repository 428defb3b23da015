"""Settings pasted from transformers' generation_config.json mean the same here, or are refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from handloom.errors import RequestError
from handloom.inference.generation_config import GenerationConfig, SamplingParams


@pytest.mark.parametrize(
    ("pasted", "same"),
    [
        # openai-community/gpt2's own
        (
            {
                "_from_model_config": True,
                "bos_token_id": 50256,
                "eos_token_id": 50256,
                "transformers_version": "4.26.0.dev0",
            },
            {"eos_token_ids": (50256,)},
        ),
        ({"eos_token_id": [5, 7], "pad_token_id": 0, "use_cache": True}, {"eos_token_ids": (5, 7)}),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": True, "top_k": 0, "min_p": 0.0, "typical_p": 1.0}, {"temperature": 1.0, "typical_p": 1.0}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0.0}),
        ({"do_sample": True, "no_repeat_ngram_size": 0}, {"temperature": 1.0}),
        ({"stop_strings": ["\n", "User:"]}, {"stop": ("\n", "User:")}),
        ({"stop_strings": None, "bad_words_ids": [[1, 2], [3]]}, {"bad_words": ((1, 2), (3,))}),
        (
            {"num_beams": 4, "length_penalty": 2.0, "early_stopping": False, "num_return_sequences": 1},
            {"num_beams": 4, "length_penalty": 2.0},
        ),
        ({"num_beam_groups": 1, "diversity_penalty": 0.0, "guidance_scale": None}, {}),
    ],
)
def test_settings_of_transformers_are_accepted(pasted, same):
    assert GenerationConfig.of(**pasted) == GenerationConfig(**same)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("max_length", 20, "Use `max_new_tokens`"),
        ("min_length", 5, "Leave it out"),
        ("num_return_sequences", 3, "Use `n`"),
        ("early_stopping", True, "Leave it out"),
        ("diversity_penalty", 0.5, "Leave it out"),
        ("penalty_alpha", 0.6, ""),
        ("temprature", 0.6, "Did you mean 'temperature'?"),
    ],
)
def test_settings_of_transformers_that_do_not_exist_here_are_refused_by_name(key, value, remedy):
    with pytest.raises(RequestError, match=key) as refused:
        GenerationConfig.of(**{key: value})
    assert refused.value.setting == key
    assert remedy in refused.value.remedy


def test_settings_are_given_by_name():
    for kind in (GenerationConfig, SamplingParams):
        with pytest.raises(TypeError, match="positional"):
            kind(60)


def test_sequences_are_sampled_together_where_their_logits_are_treated_alike():
    config = GenerationConfig(temperature=0.7, stop=["x"])
    for same in ({"seed": 5}, {"max_new_tokens": 7}, {"stop": ()}, {"logprobs": 3}, {"overflow": "slide"}):
        assert dataclasses.replace(config, **same).logits_key == config.logits_key
    for other in ({"temperature": 0.8}, {"top_p": 0.5}, {"bad_words": ((1,),)}, {"eos_token_ids": (3,)}):
        assert dataclasses.replace(config, **other).logits_key != config.logits_key
    forced = dataclasses.replace(config, forced_eos=True)
    assert dataclasses.replace(forced, max_new_tokens=7).logits_key != forced.logits_key
