"""A name -> `ModelSource` (a model on disk) -> `LanguageModel`. The only place that looks up models."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom import replacement, storage
from handloom.checkpoints import formats, gguf_import, hf_folder, model_store, nanogpt, native, packed_cache, peft
from handloom.errors import CheckpointError, ConfigError, RequestError, require_type
from handloom.finetuning import lora
from handloom.inference.language_model import LanguageModel
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.quantization.precision import PACKED, resolve_precision, set_precision
from handloom.runtime import found_from, user_path
from handloom.tokenizer import chat
from handloom.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class AdaptedModel:
    """A base model on disk with an adapter."""

    adapter: peft.Adapter
    base: ModelSource

    @property
    def folder(self) -> Path:
        """Of the adapter."""
        return self.adapter.folder

    @property
    def config(self) -> GPTConfig:
        """The shape of the model."""
        return self.adapter.checkpoint.config if self.adapter.checkpoint else self.base.config

    @property
    def training(self) -> dict[str, Any]:
        """The trainer state of the adapter's checkpoint."""
        return self.adapter.checkpoint.training if self.adapter.checkpoint else {}

    def load_model(self) -> GPT:
        """The model with the adapter merged into its weights: a plain model, as fast as its base."""
        model = self.base.load_model()
        require_base(model, self.adapter.base, self.folder, self.base.folder)
        self.adapter.attach(model)
        lora.merge_and_unload(model)
        return model.eval()

    def load_tokenizer(self) -> Tokenizer:
        """That of the adapter's checkpoint, which is its base's."""
        return (self.adapter.checkpoint or self.base).load_tokenizer()


ModelSource = native.Checkpoint | hf_folder.HFCheckpoint | AdaptedModel
"""A model on disk: it has a `folder` and a `config`, and can `load_model()` and `load_tokenizer()`."""

Adapters = str | Path | Sequence[str | Path] | Mapping[str, float]
"""Adapters: one, several, or each with its weight. "B:0.5" weighs B with 0.5."""


def _warn(note: str) -> None:
    warnings.warn(note, stacklevel=4)


def find_model(name: str | Path, on_note: Callable[[str], None] = _warn, seen_from: Path | None = None) -> ModelSource:
    """The model `name` on disk, whose weights are not read yet; CheckpointError when there is none.

    Args:
        name: a run folder (its newest complete checkpoint), a checkpoint folder, a Hugging Face folder, an adapter's
            folder, a GGUF file, nanoGPT's ckpt.pt, or the name of a pulled model. An existing folder goes first.
        on_note: called with what is passed over or left out.
        seen_from: a run or adapter whose settings name the model; a relative name is also tried from its parents.
    """
    if seen_from is not None:
        name = found_from(str(name), seen_from.absolute().parents)
    folder = _existing(name)
    if folder is None:
        problem = f"There is no model at {Path(name)}, and none of that name was pulled."
        raise CheckpointError(problem, formats.how_to_get(Path(name)))
    if checkpoint := _checkpoint(folder, on_note):
        if checkpoint.base is None:
            return checkpoint
        adapter = peft.open_adapter(checkpoint.folder, checkpoint)
        return AdaptedModel(adapter, base_of(checkpoint.base, checkpoint.folder, on_note))
    if (folder / hf_folder.CONFIG).is_file():
        return hf_folder.open_folder(folder, on_note)
    if (folder / peft.CONFIG).is_file():
        adapter = peft.open_adapter(folder)
        if adapter.base is None:
            problem = f"{folder} is an adapter that does not name its base model."
            raise CheckpointError(problem, f"Pass that model as `model`, and `adapter={folder}`.")
        return AdaptedModel(adapter, base_of(adapter.base, folder, on_note))
    return _open_single_file(folder, on_note)


def _checkpoint(folder: Path, on_note: Callable[[str], None]) -> native.Checkpoint | None:
    """The checkpoint of ours that a folder is, or the newest complete one of a run; None if it is neither."""
    if (config := folder / hf_folder.CONFIG).is_file():
        ours = storage.read_json(config).get("format") == native.FORMAT
        return native.open_checkpoint(folder) if ours else None
    if (folder / peft.CONFIG).is_file() or not (folder / native.CHECKPOINTS).is_dir():
        return None  # of others, who may keep checkpoints with their model
    checkpoint, incomplete = native.latest(folder)
    for error in incomplete:
        on_note(f"{error.problem} {checkpoint.folder.name} is used instead.")
    return checkpoint


def _open_single_file(path: Path, on_note: Callable[[str], None]) -> ModelSource:
    """A GGUF file or nanoGPT's `ckpt.pt`, or the only such file in a folder."""
    entries = sorted(path.iterdir()) if path.is_dir() else [path]
    in_gguf = [entry for entry in entries if entry.suffix.lower() == formats.GGUF]
    if len(in_gguf) > 1:
        raise CheckpointError(f"{path} contains {len(in_gguf)} GGUF files.", formats.name_one(in_gguf))
    if in_gguf:
        return gguf_import.open_file(in_gguf[0], on_note)
    saved = path if path.is_file() and path.suffix in (".pt", ".pth") else path / formats.NANOGPT
    if saved.is_file():
        return nanogpt.open_file(saved, on_note)
    raise formats.no_model(path)


def load(
    name: str | Path,
    on_note: Callable[[str], None] = _warn,
    adapter: Adapters = (),
    precision: str = "fp32",
    *,
    merge: bool = False,
) -> LanguageModel:
    """A model from disk, ready to generate: `handloom.load("runs/demo").generate("Learning is")`. Fetches nothing.

    Args:
        name: what `find_model` takes, such as a run folder or "gpt2".
        on_note: called with what is passed over; None given: Python warnings.
        adapter: runs that were tuned with LoRA, or folders in PEFT's format. They can be switched with
            `finetuning.lora.set_adapters(lm.model, {"name": 1.0})` and merged with `lora.merge(lm.model)`.
        precision: one of `quantization.precision.PRECISIONS`; fp32 is exact.
        merge: whether adapters become part of the weights, for good; in other precisions than fp32 they always do.

    Raises:
        CheckpointError: there is no model, or it is incomplete, damaged, or not one that we compute exactly.
        ConfigError: for a precision that does not exist, or that this processor does not have.
    """
    precision = resolve_precision(precision)
    source = find_model(name, on_note)
    named = named_adapters(adapter)
    found = {own: find_adapter(folder, on_note) for own, (folder, _) in named.items()}
    source = _trained_on(source, name, found.values(), on_note)
    template = _template(source)
    if precision in PACKED and not found and not isinstance(source, AdaptedModel):
        model: GPT = packed_cache.load_packed(source, precision, on_note)
    else:
        model = source.load_model()
        for one in found.values():  # all of them, before the first changes the model
            require_base(model, one.base, one.folder, source.folder)
            template = template or (_template(one.checkpoint) if one.checkpoint else None)
        for own, one in found.items():
            one.attach(model, own)
        lora.set_adapters(model, {own: weight for own, (_, weight) in named.items()})
        if merge or precision != "fp32" or not found:
            lora.merge_and_unload(model)
            model = set_precision(model, precision, on_note)
    tokenizer = source.load_tokenizer()
    return LanguageModel(model, tokenizer, source.folder, template or chat.template_of(tokenizer))


def _template(source: ModelSource) -> str | None:
    """The chat template that a model was trained with, if any; CheckpointError for one that we do not know."""
    template: str | None = None if isinstance(source, hf_folder.HFCheckpoint) else source.training.get("template")
    if template not in (None, chat.CHAT_TEMPLATE):
        problem = f"{source.folder} was trained with the chat template {template!r}; known is {chat.CHAT_TEMPLATE!r}."
        raise CheckpointError(problem, "Use the version of Handloom that wrote it.")
    return template


def find_adapter(name: str | Path, on_note: Callable[[str], None] = _warn) -> peft.Adapter:
    """The adapter `name`: a folder in PEFT's format, a LoRA run, or a checkpoint of it; or CheckpointError."""
    folder = _existing(name)
    if folder is None:
        before, colon, _ = str(name).rpartition(":")
        raise CheckpointError(
            f"There is no adapter at {Path(name)}.",
            f"The weight of an adapter is a number: {before}:0.5 takes half of it."
            if colon and _existing(before)
            else "Name a run that was tuned with LoRA, or a folder in PEFT's format.",
        )
    checkpoint = _checkpoint(folder, on_note)
    if checkpoint and checkpoint.base is None:
        raise CheckpointError(f"{folder} is a whole model, not an adapter.", f"Pass it as the model: `model={folder}`.")
    return peft.open_adapter(checkpoint.folder if checkpoint else folder, checkpoint)


def _trained_on(
    source: ModelSource, name: str | Path, adapters: Iterable[peft.Adapter], on_note: Callable[[str], None]
) -> ModelSource:
    """Of a run that was named as a whole, the checkpoint that all adapters were trained on, if there is one."""
    run = source.folder.parent.parent
    if not isinstance(source, native.Checkpoint) or Path(name).resolve() != run.resolve():
        return source
    wanted = {adapter.base.checkpoint for adapter in adapters if adapter.checkpoint and adapter.base}
    earlier = source.folder.with_name(str(*wanted)) if len(wanted) == 1 and None not in wanted else source.folder
    if earlier == source.folder or not earlier.is_dir():
        return source
    on_note(f"{earlier} is used, on which the adapter was trained, and not the newest checkpoint of {run}.")
    return native.open_checkpoint(earlier)


def require_base(model: GPT, base: native.BaseModelRef | None, trained: Path, origin: Path) -> None:
    """Raise CheckpointError unless a model, as loaded from `origin`, is the `base` that `trained` was trained on."""
    if base and base.fingerprint and native.fingerprint(model) != base.fingerprint:
        there = _place_of(base, trained)
        gone = not there.exists() or there.resolve() == origin.resolve()
        raise CheckpointError(
            f"{trained} was trained on {there if gone else base.name}, and the weights in {origin} are different.",
            "Put the weights back from a copy, or train it again." if gone else f"Use its base model: {there}.",
        )


def named_adapters(adapter: Adapters) -> dict[str, tuple[str, float]]:
    """Folder and weight of each adapter, under a name of its own: that of its run or folder.

    Raises RequestError for the same name twice, or a weight that is not finite.
    """
    require_type(adapter, "The adapter", (str, Path, Iterable), "a path, a list of them, or weights by path")
    if isinstance(adapter, Mapping):
        pairs: Iterable[tuple[str, float]] = adapter.items()
    else:
        pairs = map(_split_weight, [adapter] if isinstance(adapter, str | Path) else adapter)
    found: dict[str, tuple[str, float]] = {}
    for folder, weight in pairs:
        name = re.sub(r"[^\w-]", "_", Path(folder).name) or "adapter"
        if not math.isfinite(weight):
            problem = f"The weight of the adapter {folder} is {weight}; it must be a finite number."
            raise RequestError(problem, f"{folder}:0.5 takes half of it.", setting="adapter")
        if name in found:
            problem = f"Two adapters are called {name!r}: {found[name][0]} and {folder}."
            raise RequestError(problem, "Leave one of them out.")
        found[name] = (folder, weight)
    return found


def _split_weight(word: str | Path) -> tuple[str, float]:
    """An adapter and its weight; an existing folder of the whole name goes before a weight."""
    folder, colon, weight = str(word).rpartition(":")
    with suppress(ConfigError):  # without a home folder nothing was pulled
        if not colon or _existing(word) is not None:
            return str(word), 1.0
    with suppress(ValueError):
        return folder, float(weight)
    return str(word), 1.0


def _existing(name: str | Path) -> Path | None:
    """The folder or the pulled model of that name, if any; CheckpointError when it may not be looked into."""
    folder = user_path(name, "the model")
    try:
        found = replacement.current(folder)
        found = found if found.exists() else replacement.current(model_store.model_folder(folder.as_posix()))
        return found if found.exists() else None
    except OSError as error:  # a name too long, or a folder that may not be looked into
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.", "Name another folder.") from None


def base_of(base: native.BaseModelRef, adapter: Path, on_note: Callable[[str], None]) -> ModelSource:
    """The model that `adapter` was trained on; of a run, exactly that checkpoint. CheckpointError if it is gone."""
    found = _place_of(base, adapter)
    if found.name == base.checkpoint and found.parent.is_dir() and not found.is_dir():
        raise CheckpointError(
            f"{adapter} was trained on {base.checkpoint} of the run {base.name}, which is gone.",
            f"Put {found} back from a copy, or begin a new run on a model that is there.",
        )
    try:
        return find_model(found, on_note)
    except CheckpointError as error:
        raise CheckpointError(
            f"The base model {base.name} of {adapter} cannot be used. {error.problem}", error.remedy
        ) from None


def _place_of(base: native.BaseModelRef, adapter: Path) -> Path:
    """Where the base model of an adapter should be; of a run, exactly its checkpoint."""
    found = Path(found_from(base.name, adapter.absolute().parents))
    if base.checkpoint and (found / native.CHECKPOINTS).is_dir():
        return found / native.CHECKPOINTS / base.checkpoint
    return found


def folders_of(source: ModelSource) -> list[Path]:
    """The folders that a model is read from: its own, its base's, and so on."""
    return [source.folder, *(folders_of(source.base) if isinstance(source, AdaptedModel) else ())]
