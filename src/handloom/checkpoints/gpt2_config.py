"""GPT-2's `config.json`, as Hugging Face folders have it, and our `GPTConfig`: one table, both directions.

Every key is honoured, or known to change nothing, or refused by name. Knows no tensors.

Source: the fields of `GPT2Config` and `PreTrainedConfig` in the library transformers.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handloom.errors import CheckpointError, ConfigError
from handloom.model.config import PROBLEM_TYPES, SINGLE_LABEL, GPTConfig

FIELDS = {
    "vocab_size": "vocab_size",
    "n_positions": "context_length",
    "n_layer": "layers",
    "n_head": "heads",
    "n_embd": "embed_dim",
    "n_inner": "ffn_dim",
    "layer_norm_epsilon": "norm_eps",
    "scale_attn_weights": "scale_attention_weights",
    "scale_attn_by_inverse_layer_idx": "scale_attention_by_inverse_layer",
    "tie_word_embeddings": "tie_embeddings",
    "embd_pdrop": "embedding_dropout",
    "attn_pdrop": "attention_dropout",
    "resid_pdrop": "residual_dropout",
}
"""GPT-2's key -> our field, where the value is the same. A key that is left out has our field's default."""

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
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
    "compression_config": "Handloom reads weights in float32, float16 and bfloat16",
    "auto_map": "such a model brings code of its own, and Handloom runs none",
    "afn": "only the first GPT has that key, and Handloom reads GPT-2",
}
"""Keys that must say nothing, and why. Any other key that is not known must say nothing either."""

OVERLOOKED = {
    "hidden_act": "activation_function",
    "intermediate_size": "n_inner",
    "layer_norm_eps": "layer_norm_epsilon",
}
"""Keys of other architectures that GPT2Config does not look at, and those that it goes by instead: a note says so."""

_DROPOUTS = {"embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1}  # GPT2Config's defaults
_CLASSIFIER = "GPT2ForSequenceClassification"
_WITH_MORE_HEADS = ("GPT2DoubleHeadsModel", "GPT2HeadWithValueModel", "AutoModelForCausalLMWithValueHead")
_ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model", _CLASSIFIER, *_WITH_MORE_HEADS)
_MANNERS = ("n_embd", "n_head", "n_layer")  # the oldest files name neither type nor class, but these

NO_EFFECT = frozenset(
    (
        # Names, bookkeeping, and the weights' type, which the files themselves tell.
        "_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "use_bfloat16",
        "finetuning_task", "task_specific_params", "id2label", "label2id", "num_labels", "_num_labels", "problem_type",
        "n_special", "predict_special_tokens", "embd_size", "license", "name", "language", "languages", "description",
        "unsloth_version", "unsloth_fixed", "transformers.js_config", "library_name", "vocab_file", "model_max_length",
        # How an implementation goes about it.
        "use_cache", "output_past", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict",
        "torchscript", "gradient_checkpointing", "chunk_size_feed_forward", "_attn_implementation",
        "_attn_implementation_autoset", "attn_implementation", "tf_legacy_loss", "xla_device", "is_decoder",
        "tie_encoder_decoder", "use_flash_attention_2", "_flash_attn_2_enabled", "pretraining_tp",
        "reorder_and_upcast_attn",  # the same sums in another order, and in float32, which is all that we compute in
        # Only while training, or of architectures that GPT2Config is not: it looks at none of them.
        "attention_probs_dropout_prob", "hidden_dropout_prob", "attention_dropout", "hidden_dropout", "dropout",
        "classifier_dropout", "layerdrop", "neftune_noise_alpha", "initializer_factor", "type_vocab_size",
        "cross_attention_hidden_size",
        # Before training, and heads for classification, which have tensors of their own.
        "initializer_range", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
        "summary_first_dropout",
        # Tokens: a folder's tokenizer tells them.
        "bos_token_id", "eos_token_id", "eos_token_ids", "pad_token_id", "sep_token_id", "unk_token_id", "cls_token_id",
        "mask_token_id", "decoder_start_token_id", "tokenizer_class", "prefix", "suppress_tokens",
        "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
        # Wishes for sampling; whoever asks for text says them anew.
        "do_sample", "early_stopping", "max_length", "min_length", "max_new_tokens", "num_beams", "num_beam_groups",
        "num_return_sequences", "temperature", "top_k", "top_p", "typical_p", "length_penalty", "repetition_penalty",
        "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
        "exponential_decay_length_penalty", "remove_invalid_values", "output_scores", "return_dict_in_generate",
        "min_p", "epsilon_cutoff", "eta_cutoff", "penalty_alpha", "max_time", "renormalize_logits", "low_memory",
    )
)  # fmt: skip
"""Keys whose value, whatever it is, changes no logit."""


def read_config(values: dict[str, Any], path: Path) -> GPTConfig:
    """Our configuration of a GPT-2 in a Hugging Face folder.

    Args:
        values: its `config.json`.
        path: where that lies, for messages.

    Raises:
        CheckpointError: for another architecture, or keys or values that would change the computation in a way
            that we do not honour; it names all of them.
    """
    kind, classes = values.get("model_type"), _classes(values)
    of_gpt2 = bool(set(classes or ()) & set(_ARCHITECTURES)) or (not classes and values.keys() >= set(_MANNERS))
    if kind != "gpt2" and (kind is not None or not of_gpt2):
        raise CheckpointError(
            f"{path} describes a model of type {kind!r}; Handloom reads its own checkpoints and models of type 'gpt2'.",
            "Name a run folder such as runs/demo, or a folder with a GPT-2.",
        )
    refused: dict[str, str] = {}
    if classes is None or not set(classes) <= set(_ARCHITECTURES):
        refused["architectures"] = f"Handloom reads {' and '.join(_ARCHITECTURES)}"
    plain = _one_spelling(values, refused)
    positions = plain.get("n_positions", GPTConfig().context_length)
    if plain.get("n_ctx", positions) != positions:
        refused["n_ctx"] = f"n_positions is {positions!r}, and both count positions"
    if plain.get("position_embedding_type", "absolute") not in ("absolute", None):
        refused["position_embedding_type"] = "Handloom has absolute positions"
    activation = plain.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        refused["activation_function"] = f"Handloom has {', '.join(ACTIVATIONS)}"
    for key, value in plain.items():
        known = key in FIELDS or key in NO_EFFECT or key in OVERLOOKED or key in _SEEN
        if not known and not _says_nothing(value):
            refused[key] = REFUSED.get(key, _UNKNOWN)
    of_labels = _labels(plain, refused) if classes and _CLASSIFIER in classes else {}
    if refused:
        raise _refused(path, values, refused)
    chosen = {ours: plain[theirs] for theirs, ours in FIELDS.items() if theirs in plain}
    chosen |= {FIELDS[theirs]: default for theirs, default in _DROPOUTS.items() if theirs not in plain}
    try:
        config = GPTConfig(activation=ACTIVATIONS[activation], **chosen, **of_labels)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.remedy) from None
    return _with_single_dropout(config)


def overlooked(values: dict[str, Any], config: GPTConfig, path: Path) -> list[str]:
    """A note for each of the keys `OVERLOOKED` that says something else than the key that counts."""
    computed = {
        "activation_function": values.get("activation_function", "gelu_new"),
        "n_inner": config.feedforward_dim,
        "norm_eps": config.norm_eps,
    }
    return [
        f"{path}: {key} is {values[key]!r}, but GPT-2 goes by {counts}, which is {computed[counts]!r}."
        for key, counts in OVERLOOKED.items()
        if values.get(key) is not None and values[key] != computed[counts]
    ]


def write_config(config: GPTConfig, end_of_text: int, ends: Sequence[int] = ()) -> dict[str, Any]:
    """The inverse of `read_config`: what `config.json` says about a model of ours.

    Args:
        config: the model's.
        end_of_text: the id that begins and ends a document.
        ends: the ids that end what is generated, if they are others.
    """
    ours = {**config.to_dict(), **{f"{place}_dropout": p for place, p in config.dropouts._asdict().items()}}
    named = {activation: name for name, activation in reversed(ACTIVATIONS.items())}
    return {
        "architectures": [_CLASSIFIER if config.label_names else _ARCHITECTURES[0]],
        "model_type": "gpt2",
        **{theirs: ours[field] for theirs, field in FIELDS.items()},
        "activation_function": named[config.activation],
        "bos_token_id": end_of_text,
        "eos_token_id": list(ends) if len(ends) > 1 else [*ends, end_of_text][0],
        "dtype": "float32",
        **_label_values(config, end_of_text),
    }


def _labels(values: dict[str, Any], refused: dict[str, str]) -> dict[str, Any]:
    """What a classifier tells texts apart by, in the order of their ids, and what its scores mean."""
    number = values.get("num_labels", values.get("_num_labels", 2))
    known = range(number) if type(number) is int and 1 <= number <= _MOST_LABELS else range(2)
    names = values.get("id2label") or {str(i): f"LABEL_{i}" for i in known}
    if not isinstance(names, dict) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        refused["id2label"] = "it must name each label by its number, from 0 on"
        return {}
    kind = values.get("problem_type") or SINGLE_LABEL
    if kind not in PROBLEM_TYPES:
        refused["problem_type"] = f"Handloom has {', '.join(PROBLEM_TYPES)}"
    plain = {str(number): str(name) for number, name in names.items()}
    return {"label_names": tuple(plain[str(i)] for i in range(len(plain))), "problem_type": kind}


_MOST_LABELS = 1 << 20
_UNKNOWN = "Handloom does not know what that changes"


def _label_values(config: GPTConfig, end_of_text: int) -> dict[str, Any]:
    """What transformers wants to know of a classifier; it takes the last token that is no padding."""
    if not config.label_names:
        return {}
    return {
        "id2label": {str(number): name for number, name in enumerate(config.label_names)},
        "label2id": {name: number for number, name in enumerate(config.label_names)},
        "problem_type": None if config.problem_type == SINGLE_LABEL else config.problem_type,
        "pad_token_id": end_of_text,
    }


_SEEN = ("model_type", "architectures", "activation_function", "n_ctx", "position_embedding_type")
"""Keys that are looked at one by one."""


def _classes(values: dict[str, Any]) -> list[str] | None:
    """The names of the classes, TensorFlow's and Flax's as those of PyTorch; None if there is no list of names."""
    named = values.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return None
    return [name.removeprefix("TF").removeprefix("Flax") for name in named]


def _one_spelling(values: dict[str, Any], refused: dict[str, str]) -> dict[str, Any]:
    """The same with aliases replaced."""
    plain = {key: value for key, value in values.items() if key not in ALIASES}
    for alias, key in ALIASES.items():
        if alias in values and values[alias] != plain.setdefault(key, values[alias]):
            refused[alias] = f"{key} is {plain[key]!r}, and both mean the same"
    return plain


def _with_single_dropout(config: GPTConfig) -> GPTConfig:
    """The same, with `dropout` alone where all places have one probability."""
    if len(set(config.dropouts)) > 1:
        return config
    return dataclasses.replace(
        config, dropout=config.dropouts.residual, embedding_dropout=None, attention_dropout=None, residual_dropout=None
    )


def _says_nothing(value: Any) -> bool:
    """Whether a key, whatever it means, says that something is not there."""
    return value is False or value in (None, {}, [])


def _refused(path: Path, values: dict[str, Any], refused: dict[str, str]) -> CheckpointError:
    """One error that names every key that stands in the way, with its value and why."""
    named = " ".join(f"{key} is {reprlib.repr(values[key])}; {why}." for key, why in refused.items())
    unknown = [key for key, why in refused.items() if why == _UNKNOWN]
    if len(unknown) < len(refused):
        remedy = "Such a model would compute something else here, so it is not read."
    else:
        one = len(unknown) == 1
        remedy = (
            f"{'It' if one else 'They'} may compute something else here. If {' and '.join(unknown)} "
            f"{'is a mere remark, remove it' if one else 'are mere remarks, remove them'} from the file."
        )
    return CheckpointError(f"{path}: {named}", remedy)
