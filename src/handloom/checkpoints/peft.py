"""LoRA adapters in the folder format of Hugging Face's PEFT, read for our models and written from them.

    adapter_config.json          rank, scale, target modules
    adapter_model.safetensors    A and B of each layer, magnitudes (DoRA), trainable tokens, a classifier

The names are those of GPT-2 in transformers, from its table in `families`. A matrix that GPT-2 stores transposed
(`fan_in_fan_out`) has its A and B as ours: A (r, in), B (out, r).

Source: the format as the library peft writes it (`LoraConfig`, `get_peft_model_state_dict`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handloom import storage
from handloom.checkpoints.families.gpt2 import GPT2
from handloom.checkpoints.formats import ADAPTER_CONFIG
from handloom.checkpoints.native import BaseModelRef, Checkpoint
from handloom.checkpoints.safetensors_io import read_tensors, write_tensors
from handloom.errors import CheckpointError
from handloom.finetuning import lora, trainable_tokens
from handloom.model import surgery
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

CONFIG = ADAPTER_CONFIG
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_INNER = GPT2.tensors.prefix
_CLASSIFIER = GPT2.tensors.classifier.theirs
_EMBEDDING = GPT2.tensors.embedding.removesuffix(".weight")
_TOKEN_ROWS = f"{_EMBEDDING}.token_adapter.trainable_tokens_delta"
_TENSOR = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?")
_OURS = {"lora_A": "lora_A", "lora_B": "lora_B", "lora_magnitude_vector": "magnitude"}
_AGAIN = "Copy or fetch the adapter's folder again from where it came."
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
_IN_THE_PROMPT = "It puts vectors of its own before the text, which weights cannot hold; use it with PEFT."
_MERGE = (
    "Merge it where PEFT is installed, and use the folder that results: PeftModel.from_pretrained(MODEL, ADAPTER)"
    ".merge_and_unload().save_pretrained(FOLDER)."
)
_BY_ITS_LIBRARY = "Merge it into its model with the library that wrote it, and use the folder that results."
_HONOURED = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "alpha_pattern", "rank_pattern",
    "init_lora_weights", "fan_in_fan_out", "trainable_token_indices",
)  # fmt: skip
_NO_EFFECT = frozenset(
    (
        # Bookkeeping, and how a library handles its own objects.
        "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version", "auto_mapping",
        "megatron_core", "runtime_config", "ensure_weight_tying", "qalora_group_size",
        # Which layers have adapters: the names of the tensors show it, and are checked against the model.
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
        # How A and B were drawn before training, where the base's matrices stay as they were.
        "eva_config", "lora_ga_config",
    )
)  # fmt: skip
_PLAIN_INITIALIZATIONS = (True, False, "gaussian", "orthogonal", "eva")  # which leave the base's matrices as they were


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk, of which only `adapter_config.json` was read yet."""

    folder: Path
    values: dict[str, Any]
    checkpoint: Checkpoint | None = None  # if it was trained here

    @property
    def base(self) -> BaseModelRef | None:
        """The model that it was trained on, if the folder names it."""
        name = self.values.get("base_model_name_or_path")
        if self.checkpoint:
            return self.checkpoint.base
        return BaseModelRef(name, "") if isinstance(name, str) and name else None

    @property
    def tokens(self) -> tuple[int, ...]:
        """The trainable tokens, which have rows of their own in the token embedding."""
        listed = self.values.get("trainable_token_indices") or ()
        return tuple(next(iter(listed.values())) if isinstance(listed, dict) else listed)

    def attach(self, model: GPT, name: str = "adapter") -> None:
        """Add the adapter to a model, with its classifier, or raise CheckpointError for tensors that do not fit."""
        layers, rows, classifier = self.read(model.config)
        if classifier is not None:
            self._attach_classifier(model, classifier)
        ranks = {path: len(parameters["lora_A"]) for path, parameters in layers.items()}
        lora.insert_adapter(
            model,
            {path: (rank, self._scale(path, rank, model.config)) for path, rank in ranks.items()},
            name,
            dropout=float(self.values.get("lora_dropout", 0.0)),
            use_dora=bool(self.values.get("use_dora")),
            tokens=None if rows is None else torch.tensor(self.tokens),
        )
        with torch.no_grad():
            if rows is not None:
                trainable_tokens.token_deltas(model)[name].rows.copy_(rows)
            for path, adapter in lora.adapter_layers(model, name).items():
                for own, tensor in layers[path].items():
                    parameter = getattr(adapter, own)
                    self._require_shape(f"{path}.{own}", tensor, tuple(parameter.shape))
                    parameter.copy_(tensor)

    def read(self, config: GPTConfig) -> tuple[dict[str, dict[str, Tensor]], Tensor | None, Tensor | None]:
        """The tensors for a model of that shape; every one is used, or refused by name.

        Returns those of each layer by parameter of `LoRAAdapter`, the rows (n, C) of n trainable tokens, and the
        classifier (labels, C).
        """
        tensors = read_tensors(self.folder / WEIGHTS, _AGAIN)
        for name, tensor in tensors.items():
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                raise CheckpointError(
                    f"In {self.folder} the tensor {name} holds numbers that are not finite, or not even floats.", _AGAIN
                )
        rows, classifier = self._token_rows(tensors, config), None
        found: dict[str, dict[str, Tensor]] = {}
        ours_of = {theirs: ours for ours, theirs in GPT2.tensors.linear_layers(config).items()}
        wanted = {"lora_A", "lora_B", *(["magnitude"] if self.values.get("use_dora") else [])}
        for name, tensor in tensors.items():
            short = name.removeprefix(_PREFIX)
            if short == _CLASSIFIER and tensor.ndim == 2:
                classifier = tensor
                continue
            match = _TENSOR.fullmatch(short)
            layer = match and ours_of.get(match[1].removeprefix(_INNER))
            if not match or not layer or _OURS[match[2]] not in wanted:
                raise CheckpointError(
                    f"{self.folder} holds the tensor {name}, which does not fit this model.",
                    f"It has {config.layers} blocks, whose layers are called as in GPT-2: attn.c_attn, attn.c_proj, "
                    "mlp.c_fc, mlp.c_proj.",
                )
            found.setdefault(layer, {})[_OURS[match[2]]] = tensor
        for layer, parameters in found.items():
            if missing := sorted(wanted - parameters.keys()):
                raise CheckpointError(f"In {self.folder} the tensor {missing[0]} of {layer} is missing.", _AGAIN)
        if not found and rows is None:
            raise CheckpointError(f"{self.folder} holds no adapter for any layer.", _AGAIN)
        return found, rows, classifier

    def _token_rows(self, tensors: dict[str, Tensor], config: GPTConfig) -> Tensor | None:
        """The rows of `tokens`, (n, C), taken out of the tensors."""
        if not self.tokens:
            return None  # a tensor that is there all the same is refused as unknown
        if max(self.tokens) >= config.vocab_size:
            raise CheckpointError(
                f"{self.folder / CONFIG} names the token {max(self.tokens)}, but the model has {config.vocab_size}.",
                "The adapter belongs to a model with another vocabulary.",
            )
        names = (_PREFIX + _INNER + _TOKEN_ROWS, _PREFIX + _TOKEN_ROWS)
        name = next((name for name in names if name in tensors), None)
        if name is None:
            raise CheckpointError(f"In {self.folder} the tensor {names[0]} is missing.", _AGAIN)
        rows = tensors.pop(name)
        self._require_shape(name, rows, (len(self.tokens), config.embed_dim))
        return rows

    def _attach_classifier(self, model: GPT, weight: Tensor) -> None:
        """Set the model's classifier; the labels of one that it lacks are those of our checkpoint, else numbers."""
        if model.classifier is None:
            own = self.checkpoint.config.label_names if self.checkpoint else ()
            surgery.add_classification_head(model, own or tuple(map(str, range(len(weight)))), 0)
        assert model.classifier is not None
        self._require_shape(_CLASSIFIER, weight, tuple(model.classifier.weight.shape))
        model.classifier.weight = torch.nn.Parameter(weight.float().clone())

    def _scale(self, layer: str, rank: int, config: GPTConfig) -> float:
        theirs = _INNER + GPT2.tensors.linear_layers(config)[layer]
        alpha = _by_pattern(self.values.get("alpha_pattern"), theirs, self.values.get("lora_alpha", 8))
        named = _by_pattern(self.values.get("rank_pattern"), theirs, self.values.get("r", 8))
        if named != rank:
            raise CheckpointError(
                f"{self.folder / CONFIG} gives {theirs} the rank {named}, and its tensor has rank {rank}.", _AGAIN
            )
        return float(alpha) / (math.sqrt(rank) if self.values.get("use_rslora") else rank)

    def _require_shape(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"In {self.folder} the tensor {name} has shape {tuple(tensor.shape)} instead of {shape}.",
                "The adapter belongs to a model of another shape.",
            )


def open_adapter(folder: Path, checkpoint: Checkpoint | None = None) -> Adapter:
    """Read the settings of an adapter, of a checkpoint of ours or of PEFT's.

    Raises CheckpointError: they are missing, or ask for what we would not compute exactly.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not an adapter: {CONFIG} is missing.",
            "Name a folder that PEFT wrote, a run that was tuned with LoRA, or a checkpoint inside it.",
        )
    values = storage.read_json(path)
    kind = values.get("peft_type", "LORA" if "lora_alpha" in values else None)
    if kind != "LORA":
        remedy = _IN_THE_PROMPT if kind in _PROMPTS else _MERGE if kind else _BY_ITS_LIBRARY
        raise CheckpointError(f"{path}: peft_type is {kind!r}; Handloom reads LORA.", remedy)
    refused = {
        key: "Handloom does not compute that"
        for key, value in values.items()
        if key not in _HONOURED and key not in _NO_EFFECT and value not in (None, False, {}, [])
    }
    for key, allowed in (("bias", ("none",)), ("init_lora_weights", _PLAIN_INITIALIZATIONS)):
        if values.get(key, allowed[0]) not in allowed:
            refused[key] = f"Handloom reads {', '.join(map(str, allowed))}"
    for key, least in (("r", 1), ("lora_alpha", 0), ("lora_dropout", 0)):
        value = values.get(key, 8)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            refused[key] = f"it must be a number of at least {least}"
    if not _are_tokens(values.get("trainable_token_indices")):
        refused["trainable_token_indices"] = f"Handloom reads whole numbers, each once, of the embedding {_EMBEDDING}"
    if refused:
        reasons = " ".join(f"{key} is {values[key]!r}; {why}." for key, why in refused.items())
        raise CheckpointError(f"{path}: {reasons}", "It would compute something else here, so it is not read.")
    return Adapter(folder, values, checkpoint)


def write_adapter(folder: Path, model: GPT, how: lora.LoRAConfig, base: str, name: str = "adapter") -> None:
    """Write the adapter `name` of a model, and its classifier if it has one, into an existing folder."""
    labels, deltas = model.config.label_names, trainable_tokens.token_deltas(model).get(name)
    values = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if labels else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": how.r,
        "lora_alpha": how.lora_alpha,
        "lora_dropout": how.lora_dropout,
        "use_rslora": how.use_rslora,
        "use_dora": how.use_dora,
        "target_modules": _target_modules(model, name),
        "modules_to_save": ["score"] if labels else None,
        "trainable_token_indices": None if deltas is None else {_EMBEDDING: deltas.ids.tolist()},
        "bias": "none",
        "fan_in_fan_out": True,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    storage.write_json(folder / CONFIG, values)
    write_tensors(folder / WEIGHTS, tensors_of(model, name))


def tensors_of(model: GPT, name: str = "adapter") -> dict[str, Tensor]:
    """The tensors of an adapter under PEFT's names, with the classifier."""
    theirs = GPT2.tensors.linear_layers(model.config)
    found: dict[str, Tensor] = {}
    for path, adapter in lora.adapter_layers(model, name).items():
        prefix = f"{_PREFIX}{_INNER}{theirs[path]}"
        found[f"{prefix}.lora_A.weight"] = adapter.lora_A
        found[f"{prefix}.lora_B.weight"] = adapter.lora_B
        if adapter.magnitude is not None:
            found[f"{prefix}.lora_magnitude_vector"] = adapter.magnitude
    if name in (deltas := trainable_tokens.token_deltas(model)):
        found[f"{_PREFIX}{_INNER}{_TOKEN_ROWS}"] = deltas[name].rows
    if model.classifier is not None:
        found[_PREFIX + _CLASSIFIER] = model.classifier.weight
    return found


def _target_modules(model: GPT, name: str) -> list[str]:
    """As PEFT names layers: the end of a name where all blocks have it, else whole names."""
    theirs = GPT2.tensors.linear_layers(model.config)
    ends: dict[str, list[str]] = {}
    for path in lora.adapter_layers(model, name):
        ends.setdefault(theirs[path].split(".", 2)[2], []).append(_INNER + theirs[path])
    found: list[str] = []
    for end, whole in ends.items():
        found += [end] if len(whole) == model.config.layers else whole
    return sorted(found)


def _are_tokens(listed: Any) -> bool:
    """Whether PEFT's setting is empty, or lists rows of the token embedding in one of its two forms."""
    if isinstance(listed, dict):
        if len(listed) != 1 or next(iter(listed)).rpartition(".")[2] != _EMBEDDING:
            return False
        listed = next(iter(listed.values()))
    whole = isinstance(listed, list) and all(type(token) is int and token >= 0 for token in listed)
    return listed is None or (whole and len(set(listed)) == len(listed))


def _by_pattern(patterns: Mapping[str, Any] | None, name: str, otherwise: Any) -> Any:
    """The value of the first pattern that fits the end of a name, as PEFT looks it up."""
    fitting = (value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", name))
    return next(fitting, otherwise)
