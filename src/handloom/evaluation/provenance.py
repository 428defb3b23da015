"""Provenance of models: what a run or a folder records about where a model is from, read before the model is opened.

Run metadata may be incomplete; missing fields are None. How a model is found by its name is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handloom import storage
from handloom.checkpoints import native
from handloom.checkpoints.model_store import read_origin
from handloom.errors import CheckpointError, HandloomError, RequestError
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class ModelEntry:
    """A model by name, not yet opened."""

    name: str
    """As it was given."""
    folder: Path
    context_length: int
    open: Callable[[], LanguageModel] = field(repr=False)
    load_tokenizer: Callable[[], Tokenizer] = field(repr=False)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The training state of its checkpoint; empty for a model that was not trained here."""
    adapter_base: Path | None = None
    """Of an adapter: the checkpoint that it was trained on, which its run names without the step."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the run that trained it."""
        settings = self.training.get("settings")
        return settings if isinstance(settings, dict) else {}

    @property
    def base(self) -> str | None:
        """The model that it was tuned from, as its run names it."""
        named = self.settings.get("model")
        return named if isinstance(named, str) else None


FindModel = Callable[[str, Path | None], ModelEntry]
"""The model of a name, looked up from the current folder, or else from above the folder of the run that names it."""

KINDS = ("pretrained here", "tuned here", "pulled", "copied by hand")


@dataclass(frozen=True)
class Provenance:
    """Where a model is from."""

    kind: str
    """One of `KINDS`."""
    detail: str
    """From which model, by which method, or from which repository."""
    steps: int | None = None
    trained_parameters: int | None = None
    """Parameters that its last training changed."""
    parameters: int | None = None
    """All of them, as its run records."""

    @property
    def trained_share(self) -> float | None:
        """The fraction of its parameters that its last training changed."""
        if self.trained_parameters is None or not self.parameters:
            return None
        return self.trained_parameters / self.parameters

    @classmethod
    def of(cls, entry: ModelEntry) -> Provenance:
        """What the run of a model records, or `origin.json` in its folder."""
        if not entry.training:
            origin = read_origin(entry.folder)
            if origin is None:
                return cls("copied by hand", "from a folder that does not record its origin")
            where, revision = str(origin.get("repository", "?")), str(origin.get("revision", ""))[:12]
            return cls("pulled", f"{where} at {revision}" if revision else where)
        summary: dict[str, Any] = {}
        if entry.folder.parent.name == native.CHECKPOINTS:
            with suppress(CheckpointError):
                summary = storage.read_json(entry.folder.parent.parent / "summary.json")
        progress, settings = entry.training.get("progress"), entry.settings
        data = ", ".join(map(str, settings.get("data") or ())) or "unrecorded data"
        kind, detail, trained = "pretrained here", f"on {data}", summary.get("parameters")
        if entry.base is not None:
            kind, trained = "tuned here", summary.get("trained_parameters")
            method = summary.get("method") or settings.get("method") or "unrecorded"
            detail = f"from {entry.base} on {data}, method {method}, task {settings.get('task', 'text')}"
        steps = progress.get("step") if isinstance(progress, dict) else None
        return cls(kind, detail, steps=steps, trained_parameters=trained, parameters=summary.get("parameters"))


def collect(names: Sequence[str], find: FindModel) -> list[ModelEntry]:
    """The models to compare.

    Raises RequestError for fewer than two, or one that is named twice; CheckpointError for one that cannot be found.
    """
    if len(names) < 2:
        given = f"only {names[0]} was named" if names else "none was named"
        raise RequestError(
            f"A comparison takes two models or more, and {given}.",
            "Name them one after the other: handloom compare runs/one runs/two",
        )
    entries: dict[Path, ModelEntry] = {}
    for name in names:
        entry = find(name, None)
        if other := entries.get(folder := entry.folder.resolve()):
            twice = name if other.name == name else f"{other.name} and {name} are the same model, which"
            raise RequestError(
                f"{twice} is named twice.", "Leave one out; a checkpoint inside the run may be named too."
            )
        entries[folder] = entry
    return list(entries.values())


def base_models(
    entry: ModelEntry, others: Sequence[ModelEntry], find: FindModel
) -> tuple[list[ModelEntry], str | None]:
    """The model that a model was tuned from, the one that that was tuned from, and so on, nearest first.

    Entries of `others` are used where they are the same model. Also returns why the last one that is named is missing.
    """
    line: list[ModelEntry] = []
    at = entry
    while at.base is not None:
        try:
            above = find(str(at.adapter_base or at.base), at.folder)
        except HandloomError as error:
            return line, error.problem
        above = next((other for other in others if other.folder.resolve() == above.folder.resolve()), above)
        if above.folder in (entry.folder, *(each.folder for each in line)):
            return line, f"The run of {at.name} names the model itself as its base."
        line.append(above)
        at = above
    return line, None
