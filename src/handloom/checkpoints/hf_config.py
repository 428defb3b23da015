"""The `config.json` of a Hugging Face folder and our `GPTConfig`: walks a family's table of keys, in both directions.

Every key is honoured, known to have no effect, or refused by name. Knows no tensors.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handloom.checkpoints.families import ConfigKeys
from handloom.checkpoints.families.gpt2 import GPT2
from handloom.errors import CheckpointError, ConfigError
from handloom.model.config import PROBLEM_TYPES, SINGLE_LABEL, GPTConfig

_UNKNOWN = "Handloom does not know its effect"
_MOST_LABELS = 1 << 20


def read_config(values: dict[str, Any], path: Path) -> GPTConfig:
    """Our configuration of the model that `values`, the contents of the config.json at `path`, describe.

    Raises CheckpointError for another family, or naming every key that would change the computation in a way that we
    do not honour.
    """
    keys = GPT2.keys
    kind, classes = values.get("model_type"), _classes(values)
    named = set(classes or ()) & set(keys.architectures) or (not classes and values.keys() >= set(keys.identifying))
    if kind != keys.model_type and (kind is not None or not named):
        raise CheckpointError(
            f"{path} describes a model of type {kind!r}; Handloom reads its own checkpoints and models of type "
            f"{keys.model_type!r}.",
            "Name a run folder such as runs/demo, or a folder with a GPT-2.",
        )
    refused: dict[str, str] = {}
    if classes is None or not set(classes) <= set(keys.architectures):
        refused["architectures"] = f"Handloom reads {' and '.join(keys.architectures)}"
    plain = _one_spelling(keys, values, refused)
    activation = plain.get(keys.activation, next(iter(keys.activations)))
    if not isinstance(activation, str) or activation not in keys.activations:
        refused[keys.activation] = f"Handloom has {', '.join(keys.activations)}"
    refused |= {
        key: keys.refused.get(key, _UNKNOWN)
        for key, value in plain.items()
        if not _is_known(keys, key) and not (value is False or value in (None, {}, []))
    }
    labels = _read_labels(plain, refused) if classes and keys.classifier in classes else {}
    if refused:
        raise _refused(path, values, refused)
    chosen = {ours: plain[theirs] for theirs, ours in keys.fields.items() if theirs in plain}
    chosen |= {keys.fields[theirs]: default for theirs, default in keys.defaults.items() if theirs not in plain}
    try:
        config = GPTConfig(activation=keys.activations[activation], **chosen, **labels)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.remedy) from None
    if len(set(config.dropouts)) > 1:
        return config
    places: dict[str, Any] = dict.fromkeys(f"{place}_dropout" for place in config.dropouts._fields)
    return dataclasses.replace(config, dropout=config.dropouts.residual, **places)


def overlooked(values: dict[str, Any], config: GPTConfig, path: Path) -> list[str]:
    """A note for each overlooked key that differs from the key that counts."""
    keys = GPT2.keys
    computed = {theirs: getattr(config, ours) for theirs, ours in keys.fields.items()}
    computed |= {theirs: config.feedforward_dim for theirs, ours in keys.fields.items() if ours == "ffn_dim"}
    computed[keys.activation] = values.get(keys.activation, next(iter(keys.activations)))
    return [
        f"{path}: {key} is {values[key]!r}, and ignored in favour of {counts}, which is {computed[counts]!r}."
        for key, counts in keys.overlooked.items()
        if values.get(key) is not None and values[key] != computed[counts]
    ]


def write_config(config: GPTConfig, eos_token_id: int, ends: Sequence[int] = ()) -> dict[str, Any]:
    """The inverse of `read_config`: the `config.json` of a model of ours.

    Args:
        eos_token_id: begins and ends a document.
        ends: the ids that end generation, if they are others.
    """
    keys, labels = GPT2.keys, config.label_names
    ours = {**config.to_dict(), **{f"{place}_dropout": p for place, p in config.dropouts._asdict().items()}}
    names = {activation: name for name, activation in reversed([*keys.activations.items()])}
    of_classifier = {
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
        "problem_type": None if config.problem_type == SINGLE_LABEL else config.problem_type,
        "pad_token_id": eos_token_id,  # transformers classifies at the last token that is not padding
    }
    return {
        "architectures": [keys.classifier if labels else keys.causal_lm],
        "model_type": keys.model_type,
        **{theirs: ours[field] for theirs, field in keys.fields.items()},
        keys.activation: names[config.activation],
        "bos_token_id": eos_token_id,
        "eos_token_id": list(ends) if len(ends) > 1 else [*ends, eos_token_id][0],
        "dtype": "float32",
        **(of_classifier if labels else {}),
    }


def _is_known(keys: ConfigKeys, key: str) -> bool:
    looked_at = {"model_type", "architectures", keys.activation}
    tables = (keys.fields, keys.no_effect, keys.overlooked, keys.same_as, keys.only, looked_at)
    return any(key in table for table in tables)


def _classes(values: dict[str, Any]) -> list[str] | None:
    """The names of the classes, TensorFlow's and Flax's as those of PyTorch; None if `architectures` is malformed."""
    named = values.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return None
    return [name.removeprefix("TF").removeprefix("Flax") for name in named]


def _one_spelling(keys: ConfigKeys, values: dict[str, Any], refused: dict[str, str]) -> dict[str, Any]:
    """The same with aliases replaced; keys that contradict each other or the table are refused."""
    plain = {key: value for key, value in values.items() if key not in keys.aliases}
    for alias, key in keys.aliases.items():
        if alias in values and values[alias] != plain.setdefault(key, values[alias]):
            refused[alias] = f"{key} is {plain[key]!r}, and both mean the same"
    for key, other in keys.same_as.items():
        value = plain.get(other, getattr(GPTConfig(), keys.fields[other]))
        if plain.get(key, value) != value:
            refused[key] = f"{other} is {value!r}, and both mean the same"
    for key, (allowed, why) in keys.only.items():
        if plain.get(key) not in (*allowed, None):
            refused[key] = why
    return plain


def _read_labels(values: dict[str, Any], refused: dict[str, str]) -> dict[str, Any]:
    """The labels of a classifier in the order of their ids, and what its logits mean."""
    number = values.get("num_labels", values.get("_num_labels", 2))
    known = range(number) if type(number) is int and 1 <= number <= _MOST_LABELS else range(2)
    names = values.get("id2label") or {str(i): f"LABEL_{i}" for i in known}
    if not isinstance(names, dict) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        refused["id2label"] = "it must name each label by its number, from 0 on"
        return {}
    kind = values.get("problem_type") or SINGLE_LABEL
    if kind not in PROBLEM_TYPES:
        refused["problem_type"] = f"Handloom has {', '.join(PROBLEM_TYPES)}"
    by_number = {str(number): str(name) for number, name in names.items()}
    return {"label_names": tuple(by_number[str(i)] for i in range(len(by_number))), "problem_type": kind}


def _refused(path: Path, values: dict[str, Any], refused: dict[str, str]) -> CheckpointError:
    """One error that names every refused key with its value and the reason."""
    reasons = " ".join(f"{key} is {reprlib.repr(values[key])}; {why}." for key, why in refused.items())
    unknown = [key for key, why in refused.items() if why == _UNKNOWN]
    remedy = "Such a model would compute something else here, so it is not read."
    if len(unknown) == len(refused):
        remedy = f"This may change the logits. If it is a mere remark, remove {' and '.join(unknown)} from the file."
    return CheckpointError(f"{path}: {reasons}", remedy)
