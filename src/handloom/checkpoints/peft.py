"""LoRA adapters in the folder format of Hugging Face's PEFT, read beside our models and written from them.

    adapter_config.json          rank, scale, which layers
    adapter_model.safetensors    A and B of each detour, rows' lengths (DoRA), rows for tokens, a head for labels

The names are those of GPT-2 in transformers, from the one table of names in `gpt2`. A matrix that GPT-2 keeps
turned (`fan_in_fan_out`) has its A and B as ours: A reads the inputs, B writes the outputs.

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
from handloom.checkpoints import native
from handloom.checkpoints.gpt2 import names
from handloom.errors import CheckpointError
from handloom.finetuning import lora, trainable_tokens
from handloom.model import surgery
from handloom.model.gpt import GPT

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_INNER = "transformer."
_LABEL_HEAD = "score.weight"
_EMBEDDING = "wte"
_TOKEN_ROWS = f"{_EMBEDDING}.token_adapter.trainable_tokens_delta"
_TENSOR = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?")
_OURS = {"lora_A": "lora_A", "lora_B": "lora_B", "lora_magnitude_vector": "magnitude"}
_AGAIN = "Copy or fetch the adapter's folder again from where it came."

_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
_IN_THE_PROMPT = "It puts vectors of its own before the text, which no weights can hold; use it with PEFT."
_MERGE = (
    "Merge it where PEFT is installed, and use the folder that comes of it: PeftModel.from_pretrained(MODEL, ADAPTER)"
    ".merge_and_unload().save_pretrained(FOLDER)."
)
_BY_ITS_LIBRARY = "Merge it into its model with the library that wrote it, and use the folder that comes of it."
_HONOURED = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "alpha_pattern", "rank_pattern",
    "init_lora_weights", "fan_in_fan_out", "trainable_token_indices",
)  # fmt: skip
_NO_EFFECT = frozenset(
    (
        # Bookkeeping, and what a library does with its own objects.
        "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version", "auto_mapping",
        "megatron_core", "runtime_config", "ensure_weight_tying", "qalora_group_size",
        # Which layers have detours: the file of weights tells, and is held against the model.
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
        # How A and B were drawn before training, where that leaves the matrices beside them alone.
        "eva_config", "lora_ga_config",
    )
)  # fmt: skip
_PLAIN_BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the model's own matrices as they were."""


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk, of which so far only `adapter_config.json` was read."""

    folder: Path
    values: dict[str, Any]

    @property
    def base(self) -> str | None:
        """The name of the model it was trained beside, as it was told."""
        name = self.values.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that have rows of their own in the token embedding."""
        told = self.values.get("trainable_token_indices") or ()
        return tuple(next(iter(told.values())) if isinstance(told, dict) else told)

    def attach(self, model: GPT, name: str = "adapter") -> None:
        """Lay its detours beside the model's matrices, and its rows into the token embedding.

        Args:
            model: edited in place.
            name: of the adapter in the model.

        Raises:
            CheckpointError: for tensors that do not fit the model, are not finite, or are of no use.
        """
        tensors = native.read_tensors(self.folder / WEIGHTS, _AGAIN)
        for path, tensor in tensors.items():
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                raise CheckpointError(
                    f"In {self.folder} the tensor {path} holds numbers that are not finite, or no numbers at all.",
                    _AGAIN,
                )
        rows = self._token_rows(tensors, model)
        parts = self._parts(tensors, model)
        if not parts and rows is None:
            raise CheckpointError(f"{self.folder} holds no detours.", _AGAIN)
        lora.insert_adapter(
            model,
            {
                path: (len(part["lora_A"]), self._scale(path, len(part["lora_A"]), model))
                for path, part in parts.items()
            },
            name,
            float(self.values.get("lora_dropout", 0.0)),
            bool(self.values.get("use_dora")),
            None if rows is None else torch.tensor(self.tokens),
        )
        with torch.no_grad():
            if rows is not None:
                trainable_tokens.token_deltas(model)[name].rows.copy_(rows)
            for path, detour in lora.adapter_layers(model, name).items():
                for own, tensor in parts[path].items():
                    parameter = getattr(detour, own)
                    _require_shape(f"{path}.{own}", tensor, tuple(parameter.shape), self.folder)
                    parameter.copy_(tensor)

    def _token_rows(self, tensors: dict[str, Tensor], model: GPT) -> Tensor | None:
        """The rows for `tokens`, (n, C), taken from among the tensors."""
        if not self.tokens:
            return None  # a tensor that is there all the same is refused with those of no use
        if max(self.tokens) >= model.config.vocab_size:
            raise CheckpointError(
                f"{self.folder / CONFIG} names the token {max(self.tokens)}, and the model knows those below "
                f"{model.config.vocab_size}.",
                "The adapter belongs to a model with another vocabulary.",
            )
        names = (_PREFIX + _INNER + _TOKEN_ROWS, _PREFIX + _TOKEN_ROWS)
        name = next((name for name in names if name in tensors), None)
        if name is None:
            raise CheckpointError(f"In {self.folder} the tensor {names[0]} is missing.", _AGAIN)
        rows = tensors.pop(name)
        _require_shape(name, rows, (len(self.tokens), model.config.embed_dim), self.folder)
        return rows

    def _parts(self, tensors: dict[str, Tensor], model: GPT) -> dict[str, dict[str, Tensor]]:
        """The tensors by our layer and part; every one is used, or refused by name."""
        layers = {theirs: ours for ours, theirs in _layer_names(model).items()}
        wanted = {"lora_A", "lora_B", *(["magnitude"] if self.values.get("use_dora") else [])}
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            short = name.removeprefix(_PREFIX)
            if short == _LABEL_HEAD and tensor.ndim == 2:
                if model.classifier is None:  # PEFT does not know what labels are called
                    surgery.add_classification_head(model, tuple(str(label) for label in range(len(tensor))), 0)
                assert model.classifier is not None
                _require_shape(name, tensor, tuple(model.classifier.weight.shape), self.folder)
                with torch.no_grad():
                    model.classifier.weight = torch.nn.Parameter(tensor.float().clone())
                continue
            match = _TENSOR.fullmatch(short)
            layer = match and layers.get(match[1].removeprefix(_INNER))
            if not match or not layer or _OURS[match[2]] not in wanted:
                raise CheckpointError(
                    f"{self.folder} holds the tensor {name}, which is of no use beside this model.",
                    f"It has {model.config.layers} blocks, whose layers are called as in GPT-2: attn.c_attn, "
                    "attn.c_proj, mlp.c_fc, mlp.c_proj.",
                )
            parts.setdefault(layer, {})[_OURS[match[2]]] = tensor
        for layer, part in parts.items():
            if missing := sorted(wanted - part.keys()):
                raise CheckpointError(f"In {self.folder} the tensor {missing[0]} of {layer} is missing.", _AGAIN)
        return parts

    def _scale(self, layer: str, rank: int, model: GPT) -> float:
        theirs = _INNER + _layer_names(model)[layer]
        alpha = _by_pattern(self.values.get("alpha_pattern"), theirs, self.values.get("lora_alpha", 8))
        said = _by_pattern(self.values.get("rank_pattern"), theirs, self.values.get("r", 8))
        if said != rank:
            raise CheckpointError(
                f"{self.folder / CONFIG} says rank {said} of {theirs}, and its tensor has rank {rank}.", _AGAIN
            )
        return float(alpha) / (math.sqrt(rank) if self.values.get("use_rslora") else rank)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def open_adapter(folder: Path) -> Adapter:
    """Read the settings of an adapter.

    Raises:
        CheckpointError: when there are none, or they ask for what we would not compute exactly.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no adapter: it has no {CONFIG}.",
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
    for key, allowed in (("bias", ("none",)), ("init_lora_weights", _PLAIN_BEGINNINGS)):
        if values.get(key, allowed[0]) not in allowed:
            refused[key] = f"Handloom reads {', '.join(map(str, allowed))}"
    for key, least in (("r", 1), ("lora_alpha", 0), ("lora_dropout", 0)):
        value = values.get(key, 8)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            refused[key] = f"it must be a number of at least {least}"
    told = values.get("trainable_token_indices")
    if told is not None and not _tokens_of_the_embedding(told):
        refused["trainable_token_indices"] = (
            f"Handloom reads whole numbers, each once, for the token embedding, {_EMBEDDING}"
        )
    if refused:
        raise CheckpointError(
            " ".join([f"{path}:", *(f"{key} is {values[key]!r}; {why}." for key, why in refused.items())]),
            "Such an adapter would compute something else here, so it is not read.",
        )
    return Adapter(folder, values)


def write_adapter(folder: Path, model: GPT, how: lora.LoRAConfig, base: str, name: str = "adapter") -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` into a folder.

    Args:
        folder: is there.
        model: whose detours are written, and its head for labels if it has one.
        how: what they are like.
        base: the name of the model they lie beside.
        name: of the set of detours.
    """
    storage.write_json(folder / CONFIG, config_values(model, how, base, name))
    native.write_tensors(folder / WEIGHTS, tensors_of(model, name))


def tensors_of(model: GPT, name: str = "adapter") -> dict[str, Tensor]:
    """An adapter's detours and rows under PEFT's names, with the head for labels."""
    theirs = _layer_names(model)
    found: dict[str, Tensor] = {}
    for path, detour in lora.adapter_layers(model, name).items():
        prefix = f"{_PREFIX}{_INNER}{theirs[path]}"
        found[f"{prefix}.lora_A.weight"] = detour.lora_A
        found[f"{prefix}.lora_B.weight"] = detour.lora_B
        if detour.magnitude is not None:
            found[f"{prefix}.lora_magnitude_vector"] = detour.magnitude
    if name in (rows := trainable_tokens.token_deltas(model)):
        found[f"{_PREFIX}{_INNER}{_TOKEN_ROWS}"] = rows[name].rows
    if model.classifier is not None:
        found[_PREFIX + _LABEL_HEAD] = model.classifier.weight
    return found


def config_values(model: GPT, how: lora.LoRAConfig, base: str, name: str = "adapter") -> dict[str, Any]:
    """What `adapter_config.json` says about detours of ours."""
    labels, rows = model.config.label_names, trainable_tokens.token_deltas(model).get(name)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if labels else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": how.rank,
        "lora_alpha": how.alpha,
        "lora_dropout": how.dropout,
        "use_rslora": how.use_rslora,
        "use_dora": how.use_dora,
        "target_modules": _target_modules(model, name),
        "modules_to_save": ["score"] if labels else None,
        "trainable_token_indices": None if rows is None else {_EMBEDDING: rows.ids.tolist()},
        "bias": "none",
        "fan_in_fan_out": True,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _target_modules(model: GPT, name: str) -> list[str]:
    """As PEFT names layers: the end of a name where all blocks have it, else whole names."""
    theirs = _layer_names(model)
    paths = lora.adapter_layers(model, name)
    ends: dict[str, list[str]] = {}
    for path in paths:
        ends.setdefault(theirs[path].split(".", 2)[2], []).append(_INNER + theirs[path])
    found: list[str] = []
    for end, whole in ends.items():
        found += [end] if len(whole) == model.config.layers else whole
    return sorted(found)


def _layer_names(model: GPT) -> dict[str, str]:
    """Our name of each linear layer inside the blocks -> GPT-2's, from the one table of names."""
    return {
        name.ours.removesuffix(".weight"): name.theirs.removesuffix(".weight")
        for name in names(model.config)
        if name.turned
    }


def _tokens_of_the_embedding(told: Any) -> bool:
    """Whether these are tokens whose rows of the token embedding are exchanged, as PEFT may write them."""
    if isinstance(told, dict):
        if len(told) != 1 or next(iter(told)).rpartition(".")[2] != _EMBEDDING:
            return False
        told = next(iter(told.values()))
    return (
        isinstance(told, list)
        and all(type(token) is int and token >= 0 for token in told)
        and len(set(told)) == len(told)
    )


def _by_pattern(patterns: Mapping[str, Any] | None, name: str, otherwise: Any) -> Any:
    """The value of the first pattern that fits the end of a name, as PEFT looks it up."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return otherwise


def _require_shape(name: str, tensor: Tensor, shape: tuple[int, ...], folder: Path) -> None:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"In {folder} the tensor {name} has shape {tuple(tensor.shape)} instead of {shape}.",
            "The adapter belongs to a model of another shape.",
        )
