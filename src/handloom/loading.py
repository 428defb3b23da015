"""Find the model that a name stands for, and make it ready to write. The one place where models are looked up."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom import replacement, storage
from handloom.checkpoints import elsewhere, formats, gpt2, model_store, native, peft
from handloom.errors import CheckpointError, ConfigError, RequestError, require_type
from handloom.finetuning import lora
from handloom.inference.language_model import LanguageModel
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.runtime import found_from, user_path
from handloom.tokenizer import chat
from handloom.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class AdaptedModel:
    """A model on disk that is another model with an adapter beside it."""

    adapter: peft.Adapter
    base: ModelSource
    checkpoint: native.Checkpoint | None = None
    """Where the adapter was trained here; None for one of PEFT's own."""

    @property
    def folder(self) -> Path:
        """Of the adapter."""
        return self.adapter.folder

    @property
    def config(self) -> GPTConfig:
        """The shape of the model."""
        return self.checkpoint.config if self.checkpoint else self.base.config

    @property
    def training(self) -> dict[str, Any]:
        """What the adapter's checkpoint tells of its training."""
        return self.checkpoint.training if self.checkpoint else {}

    def load_model(self) -> GPT:
        """The model with the adapter merged into its weights: a plain model, as quick as its base."""
        model = self.base.load_model()
        if self.checkpoint:
            require_base(model, self.checkpoint, self.base.folder)
        attach(model, self.adapter, self.checkpoint)
        lora.merge_and_unload(model)
        return model.eval()

    def load_tokenizer(self) -> Tokenizer:
        """That of the adapter's checkpoint, which is its base's."""
        return self.checkpoint.load_tokenizer() if self.checkpoint else self.base.load_tokenizer()


ModelSource = native.Checkpoint | gpt2.HFCheckpoint | AdaptedModel
"""A model on disk: it has a `folder` and a `config`, and can `load_model()` and `load_tokenizer()`."""

Adapters = str | Path | Sequence[str | Path] | Mapping[str, float]
"""Adapters to lay beside a model: one, several, or each with its share. "B:0.5" takes half of B."""


def _warn(note: str) -> None:
    warnings.warn(note, stacklevel=4)


def find_model(name: str | Path, on_note: Callable[[str], None] = _warn) -> ModelSource:
    """The model that `name` stands for.

    Args:
        name: a run folder (its newest whole checkpoint), a checkpoint folder, a Hugging Face folder, an adapter's
            folder, a GGUF file, nanoGPT's ckpt.pt, or the name of a model that was pulled. A folder that is there
            goes before a pulled model of that name.
        on_note: told when newer checkpoints of the run were passed over because they are incomplete, and what is
            left out of a model from elsewhere.

    Raises:
        CheckpointError: when there is none.
    """
    folder = _folder(name)
    if _is_run(folder):
        return _with_base(_newest(folder, on_note), on_note)
    if (folder / gpt2.CONFIG).is_file():
        if storage.read_json(folder / gpt2.CONFIG).get("format") == native.FORMAT:
            return _with_base(native.open_checkpoint(folder), on_note)
        return gpt2.open_folder(folder, on_note)
    if peft.is_adapter(folder):
        adapter = peft.open_adapter(folder)
        if adapter.base is None:
            raise CheckpointError(
                f"{folder} is an adapter that does not say which model it lies beside.",
                f"Name that model, and the adapter beside it: --model MODEL --adapter {folder}.",
            )
        return AdaptedModel(adapter, base_of(native.BaseModelRef(adapter.base, ""), folder, on_note))
    return elsewhere.open_model(folder, on_note)


def _is_run(folder: Path) -> bool:
    """Whether this is a run of ours, rather than a model of somebody else's who keeps checkpoints with it."""
    of_others = (folder / gpt2.CONFIG).is_file() or peft.is_adapter(folder)
    return (folder / native.CHECKPOINTS).is_dir() and not of_others


def load(name: str | Path, on_note: Callable[[str], None] = _warn, adapter: Adapters = ()) -> LanguageModel:
    """A model from disk, ready to write: `handloom.load("runs/demo").generate("Learning is")`.

    Nothing is fetched: what is not on this machine is an error that says how to get it.

    Args:
        name: a run folder, a checkpoint folder inside one, a Hugging Face folder, an adapter's folder, or a pulled
            name such as "gpt2".
        on_note: told when newer checkpoints of the run were passed over; a Python warning if not given.
        adapter: adapters to lay beside it: runs that were tuned with LoRA, or folders in PEFT's format. They can be
            switched with `finetuning.lora.use(lm.model, {"name": 1.0})` and merged with `lora.merge(lm.model)`.

    Raises:
        CheckpointError: when there is no model, or it is torn, damaged, or not one that we compute exactly.
    """
    stored = find_model(name, on_note)
    named = named_adapters(adapter)
    found = {own: find_adapter(folder, on_note) for own, (folder, _) in named.items()}
    stored = _trained_on(stored, name, [checkpoint for _, checkpoint in found.values()], on_note)
    model, template = stored.load_model(), _template(stored)
    for _, checkpoint in found.values():  # all of them, before the first changes the model
        if checkpoint:
            require_base(model, checkpoint, stored.folder)
    for own, (beside, checkpoint) in found.items():
        attach(model, beside, checkpoint, own)
        template = template or (_template(checkpoint) if checkpoint else None)
    lora.set_adapters(model, {own: share for own, (_, share) in named.items()})
    tokenizer = stored.load_tokenizer()
    return LanguageModel(model, tokenizer, stored.folder, template or chat.template_of(tokenizer))


def _template(stored: ModelSource) -> str | None:
    """In which way a model learned conversations, if it did.

    Raises:
        CheckpointError: when that is a way we do not know.
    """
    template: str | None = None if isinstance(stored, gpt2.HFCheckpoint) else stored.training.get("template")
    if template not in (None, chat.CHAT_TEMPLATE):
        raise CheckpointError(
            f"{stored.folder} learned conversations in the template {template!r}; we know {chat.CHAT_TEMPLATE!r}.",
            "Use the version of Handloom that wrote it.",
        )
    return template


def find_adapter(
    name: str | Path, on_note: Callable[[str], None] = _warn
) -> tuple[peft.Adapter, native.Checkpoint | None]:
    """The adapter that `name` stands for: a folder in PEFT's format, a run tuned with LoRA, or a checkpoint of it.

    Raises:
        CheckpointError: when there is none.
    """
    folder = _adapter_folder(name)
    checkpoint = None
    if _is_run(folder):
        checkpoint = _newest(folder, on_note)
    elif (folder / gpt2.CONFIG).is_file() and storage.read_json(folder / gpt2.CONFIG).get("format") == native.FORMAT:
        checkpoint = native.open_checkpoint(folder)
    if checkpoint and checkpoint.base is None:
        raise CheckpointError(
            f"{folder} holds a whole model, not an adapter.", f"Name it as the model itself: --model {folder}."
        )
    return peft.open_adapter(checkpoint.folder if checkpoint else folder), checkpoint


def _trained_on(
    stored: ModelSource, name: str | Path, adapters: Sequence[native.Checkpoint | None], on_note: Callable[[str], None]
) -> ModelSource:
    """Of a run that was named as a whole, the checkpoint that all adapters were trained on, if there is one."""
    run = stored.folder.parent.parent
    if not isinstance(stored, native.Checkpoint) or Path(name).resolve() != run.resolve():
        return stored
    wanted = {checkpoint.base.checkpoint for checkpoint in adapters if checkpoint and checkpoint.base}
    if len(wanted) != 1 or None in wanted or wanted == {stored.folder.name}:
        return stored
    earlier = stored.folder.with_name(str(*wanted))
    if not earlier.is_dir():
        return stored
    on_note(f"{earlier} is used, on which the adapter was trained, and not the newest checkpoint of {run}.")
    return native.open_checkpoint(earlier)


def require_base(model: GPT, checkpoint: native.Checkpoint, origin: Path) -> None:
    """Raise CheckpointError unless a model is the one that a checkpoint's adapter was trained on.

    Args:
        model: as it was loaded.
        checkpoint: the adapter's.
        origin: the folder that the model was loaded from.
    """
    base = checkpoint.base
    if base and native.fingerprint(model) != base.fingerprint:
        there = _place_of(base, checkpoint.folder)
        gone = not there.exists() or there.resolve() == origin.resolve()
        raise CheckpointError(
            f"The adapter in {checkpoint.folder} was trained on {there if gone else base.name}, and the weights in "
            f"{origin} are others.",
            "Put the weights back as they were from a copy, or train a new adapter."
            if gone
            else f"Use the model that it was trained on: {there}.",
        )


def attach(
    model: GPT, adapter: peft.Adapter, checkpoint: native.Checkpoint | None = None, name: str = "adapter"
) -> None:
    """Lay an adapter beside a model.

    Args:
        model: edited in place.
        adapter: on disk.
        checkpoint: that it belongs to, if it was trained here: it knows the names of labels.
        name: of the set of detours.

    Raises:
        CheckpointError: when it does not fit.
    """
    if checkpoint and checkpoint.config.label_names and not model.config.label_names:
        model.add_classification_head(checkpoint.config.label_names, 0)
    adapter.attach(model, name)


def named_adapters(adapter: Adapters) -> dict[str, tuple[str, float]]:
    """Folder and share of each adapter, under a name of its own: that of its run or folder.

    Raises:
        RequestError: for the same name twice, or a share that is not finite.
    """
    require_type(adapter, "The adapter", (str, Path, Iterable), "a path, a list of them, or shares by path")
    if isinstance(adapter, Mapping):
        pairs: Iterator[tuple[str, float]] = iter(adapter.items())
    else:
        pairs = map(_share, [adapter] if isinstance(adapter, str | Path) else adapter)
    found: dict[str, tuple[str, float]] = {}
    for folder, share in pairs:
        name = re.sub(r"[^\w-]", "_", Path(folder).name) or "adapter"
        if not math.isfinite(share):
            raise RequestError(
                f"The share of the adapter {folder} is {share}; it must be a finite number.",
                f"{folder}:0.5 takes half of it.",
            )
        if name in found:
            raise RequestError(
                f"Two adapters are called {name!r}: {found[name][0]} and {folder}.", "Leave one of them out."
            )
        found[name] = (folder, share)
    return found


def _share(word: str | Path) -> tuple[str, float]:
    """An adapter and its share; what is there under the whole name goes before a share."""
    folder, colon, share = str(word).rpartition(":")
    whole = not colon
    with suppress(ConfigError):  # no home folder, so nothing was pulled
        whole = whole or _existing(word) is not None
    with suppress(ValueError):
        if not whole:
            return folder, float(share)
    return str(word), 1.0


def _folder(name: str | Path) -> Path:
    """The folder that is meant.

    Raises:
        CheckpointError: when there is none, or it may not be looked into.
    """
    folder = _existing(name)
    if folder is None:
        raise CheckpointError(
            f"There is no model at {Path(name)}, and none of that name was pulled.", _remedy(Path(name))
        )
    return folder


def _adapter_folder(name: str | Path) -> Path:
    """The same for an adapter."""
    folder = _existing(name)
    if folder is None:
        before, colon, _ = str(name).rpartition(":")
        share = colon and _existing(before)
        raise CheckpointError(
            f"There is no adapter at {Path(name)}.",
            f"The share of an adapter is a number: {before}:0.5 takes half of it."
            if share
            else "Name a run that was tuned with LoRA, or a folder in PEFT's format.",
        )
    return folder


def _existing(name: str | Path) -> Path | None:
    """The folder or the pulled model of that name, if there is one.

    Raises:
        CheckpointError: when it may not be looked into.
    """
    folder = user_path(name, "the model")
    try:
        found = replacement.current(folder)
        found = found if found.exists() else replacement.current(model_store.model_folder(folder.as_posix()))
        return found if found.exists() else None
    except OSError as error:  # a name too long, or a folder that may not be looked into
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.", "Name another folder.") from None


def _newest(run: Path, on_note: Callable[[str], None]) -> native.Checkpoint:
    checkpoint, passed_over = native.latest(run)
    for torn in passed_over:
        on_note(f"{torn.problem} {checkpoint.folder.name} is used instead.")
    return checkpoint


def _with_base(checkpoint: native.Checkpoint, on_note: Callable[[str], None]) -> ModelSource:
    if checkpoint.base is None:
        return checkpoint
    base = base_of(checkpoint.base, checkpoint.folder, on_note)
    return AdaptedModel(peft.open_adapter(checkpoint.folder), base, checkpoint)


def base_of(base: native.BaseModelRef, adapter: Path, on_note: Callable[[str], None]) -> ModelSource:
    """The model that an adapter was trained on: of a run, the very checkpoint.

    Args:
        base: as the adapter remembers it; the name was given from the folder that the tuning was started in.
        adapter: the adapter's folder.
        on_note: told when newer checkpoints of a run were passed over.

    Raises:
        CheckpointError: it is not there any more, or cannot be used.
    """
    found = _place_of(base, adapter)
    if found.name == base.checkpoint and found.parent.is_dir() and not found.is_dir():
        raise CheckpointError(
            f"{adapter} was trained on {base.checkpoint} of the run {base.name}, which is not there any more.",
            f"Put {found} back from a copy, or begin a new run on a model that is there.",
        )
    try:
        return find_model(found, on_note)
    except CheckpointError as error:
        raise CheckpointError(
            f"The adapter in {adapter} lies beside the model {base.name}, which cannot be used. {error.problem}",
            error.remedy,
        ) from None


def _place_of(base: native.BaseModelRef, adapter: Path) -> Path:
    """Where the model that an adapter was trained on should be; of a run, the very checkpoint."""
    found = Path(found_from(base.name, adapter.absolute().parents))
    if base.checkpoint and (found / native.CHECKPOINTS).is_dir():
        return found / native.CHECKPOINTS / base.checkpoint
    return found


def folders_of(stored: ModelSource) -> list[Path]:
    """The folders that a model is read from: its own, its base's, and so on."""
    if isinstance(stored, AdaptedModel):
        return [stored.folder, *folders_of(stored.base)]
    return [stored.folder]


def _remedy(name: Path) -> str:
    if name.suffix in formats.SUFFIXES:
        return f"Check the path; `ls {name.parent}` shows what is there."
    reference = "or name a folder that was copied here by hand"
    if re.fullmatch(r"(?!runs/)[\w.-]+(/[\w.-]+)?", name.as_posix()):
        return f"Fetch it with `handloom pull {name.as_posix()}`, {reference}."
    return f"Train one with `handloom train --run {name}` (or `make demo`), {reference}."
