"""GPT-2's `config.json`, as Hugging Face folders have it, and our `GPTConfig`: one table, both directions.

Every key is honoured, or known to change nothing, or refused by name. Knows no tensors.

Source: the fields of `GPT2Config` and `PreTrainedConfig` in the library transformers.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from handloom.errors import CheckpointError, ConfigError
from handloom.model.config import GPTConfig

FIELDS = {
    "vocab_size": "vocab_size",
    "n_positions": "context",
    "n_layer": "layers",
    "n_head": "heads",
    "n_embd": "width",
    "n_inner": "inner_width",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "scale_attn_weights": "scale_attention_weights",
    "scale_attn_by_inverse_layer_idx": "scale_attention_by_inverse_layer",
    "tie_word_embeddings": "tied_head",
    "embd_pdrop": "embedding_dropout",
    "attn_pdrop": "attention_dropout",
    "resid_pdrop": "residual_dropout",
}
"""GPT-2's key -> our field, where the value is the same. A key that is left out has our field's default."""

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}
"""`activation_function` -> our `activation`. The first name of an activation is the one we write."""

ALIASES = {
    "max_position_embeddings": "n_positions",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
}
"""Other spellings that GPT2Config takes for the same thing."""

REFUSED = {
    "add_cross_attention": "Handloom has no cross attention",
    "is_encoder_decoder": "Handloom has no encoder",
    "pruned_heads": "in Handloom all layers have all their heads",
    "quantization_config": "Handloom reads weights in float32, float16 and bfloat16",
    "auto_map": "such a model brings code of its own, and Handloom runs none",
}
"""Keys that must say nothing, and why. Any other key that is not known must say nothing either."""

_DROPOUTS = {"embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1}  # GPT2Config's defaults
_CLASSIFIER = "GPT2ForSequenceClassification"
_ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model", _CLASSIFIER)

NO_EFFECT = frozenset(
    (
        # Names, bookkeeping, and the weights' type, which the files themselves tell.
        "_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "use_bfloat16",
        "finetuning_task", "task_specific_params", "id2label", "label2id", "num_labels", "_num_labels", "problem_type",
        "n_special", "predict_special_tokens", "embd_size", "license", "name",
        # How an implementation goes about it.
        "use_cache", "output_past", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict",
        "torchscript", "gradient_checkpointing", "chunk_size_feed_forward", "_attn_implementation",
        "_attn_implementation_autoset", "attn_implementation", "tf_legacy_loss", "xla_device", "is_decoder",
        "reorder_and_upcast_attn",  # the same sums in another order, and in float32, which is all that we compute in
        # Before training, and heads for classification, which have tensors of their own.
        "initializer_range", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
        "summary_first_dropout",
        # Tokens: a folder's tokenizer tells them.
        "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class",
        "prefix", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
        # Wishes for sampling; whoever asks for text says them anew.
        "do_sample", "early_stopping", "max_length", "min_length", "max_new_tokens", "num_beams", "num_beam_groups",
        "num_return_sequences", "temperature", "top_k", "top_p", "typical_p", "length_penalty", "repetition_penalty",
        "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
        "exponential_decay_length_penalty", "remove_invalid_values", "output_scores", "return_dict_in_generate",
    )
)  # fmt: skip
"""Keys whose value, whatever it is, changes no logit."""


def read_config(values: dict[str, Any], path: Path) -> GPTConfig:
    """Our configuration of a GPT-2 in a Hugging Face folder.

    Args:
        values: its `config.json`.
        path: where that lies, for messages.

    Raises:
        CheckpointError: for another architecture, or a key or value that would change the computation
            in a way that we do not honour.
    """
    _require_gpt2(values, path)
    values = _one_spelling(values, path)
    positions = values.get("n_positions", GPTConfig().context)
    if values.get("n_ctx", positions) != positions:
        raise _refused(
            path, "n_ctx", values["n_ctx"], f"n_positions is {positions!r}, and both count positions"
        )
    for key, value in values.items():
        known = key in FIELDS or key in NO_EFFECT
        if not known and key not in _SEEN and not _says_nothing(value):
            raise _refused(path, key, value, REFUSED.get(key, "Handloom does not know what that changes"))
    chosen = {ours: values[theirs] for theirs, ours in FIELDS.items() if theirs in values}
    chosen |= {FIELDS[theirs]: default for theirs, default in _DROPOUTS.items() if theirs not in values}
    activation = values.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise _refused(path, "activation_function", activation, f"Handloom has {', '.join(ACTIVATIONS)}")
    try:
        config = GPTConfig(activation=ACTIVATIONS[activation], labels=_labels(values, path), **chosen)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.remedy) from None
    return _with_single_dropout(config)


def write_config(config: GPTConfig, end_of_text: int) -> dict[str, Any]:
    """The inverse of `read_config`: what `config.json` says about a model of ours.

    Args:
        config: the model's.
        end_of_text: the id that begins and ends a document.
    """
    ours = {**config.to_dict(), **{f"{place}_dropout": p for place, p in config.dropouts._asdict().items()}}
    named = {activation: name for name, activation in reversed(ACTIVATIONS.items())}
    return {
        "architectures": [_CLASSIFIER if config.labels else _ARCHITECTURES[0]],
        "model_type": "gpt2",
        **{theirs: ours[field] for theirs, field in FIELDS.items()},
        "activation_function": named[config.activation],
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
        **_label_values(config, end_of_text),
    }


def _labels(values: dict[str, Any], path: Path) -> tuple[str, ...]:
    """What a classifier tells texts apart by, in the order of their ids; nothing for other models."""
    if _CLASSIFIER not in (values.get("architectures") or []):
        return ()
    names = values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if not isinstance(names, dict) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise _refused(path, "id2label", names, "it must name each label by its number, from 0 on")
    return tuple(
        str({str(number): name for number, name in names.items()}[str(i)]) for i in range(len(names))
    )


def _label_values(config: GPTConfig, end_of_text: int) -> dict[str, Any]:
    """What transformers wants to know of a classifier; it takes the last token that is no padding."""
    if not config.labels:
        return {}
    return {
        "id2label": {str(number): name for number, name in enumerate(config.labels)},
        "label2id": {name: number for number, name in enumerate(config.labels)},
        "pad_token_id": end_of_text,
    }


_SEEN = ("model_type", "architectures", "activation_function", "n_ctx")  # looked at one by one


def _require_gpt2(values: dict[str, Any], path: Path) -> None:
    kind = values.get("model_type")
    if kind != "gpt2":
        raise CheckpointError(
            f"{path} describes a model of type {kind!r}; Handloom reads its own checkpoints and models of type 'gpt2'.",
            "Name a run folder such as runs/demo, or a folder with a GPT-2.",
        )
    architectures = values.get("architectures") or []
    if not isinstance(architectures, list) or any(name not in _ARCHITECTURES for name in architectures):
        raise _refused(path, "architectures", architectures, f"Handloom reads {' and '.join(_ARCHITECTURES)}")


def _one_spelling(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The same with aliases replaced."""
    plain = {key: value for key, value in values.items() if key not in ALIASES}
    for alias, key in ALIASES.items():
        if alias in values and values[alias] != plain.setdefault(key, values[alias]):
            raise _refused(path, alias, values[alias], f"{key} is {plain[key]!r}, and both mean the same")
    return plain


def _with_single_dropout(config: GPTConfig) -> GPTConfig:
    """The same, with `dropout` alone where all places have one probability."""
    if len(set(config.dropouts)) > 1:
        return config
    return dataclasses.replace(
        config,
        dropout=config.dropouts.residual,
        embedding_dropout=None,
        attention_dropout=None,
        residual_dropout=None,
    )


def _says_nothing(value: Any) -> bool:
    """Whether a key, whatever it means, says that something is not there."""
    return value is False or value in (None, {}, [])


def _refused(path: Path, key: str, value: Any, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {key} is {value!r}; {why}.",
        "Such a model would compute something else here, so it is not read."
        if key in REFUSED
        else f"It may compute something else here. If {key} is a mere remark, remove it from the file.",
    )
