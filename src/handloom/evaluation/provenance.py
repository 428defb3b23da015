"""A model that takes part in a comparison: what is known of it before it is opened.

What a run says of itself is read with care: a setting that is missing is a thing not told. How a model is found by
its name is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """A model by name."""

    name: str
    """As it was asked for."""
    folder: Path
    context_length: int
    open: Callable[[], LanguageModel] = field(repr=False)
    load_tokenizer: Callable[[], Tokenizer] = field(repr=False)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What its checkpoint says of its training; nothing for a model that was not trained here."""
    lies_on: Path | None = None
    """Of an adapter: the very checkpoint that it was trained on, which its run names without the step."""

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


Find = Callable[[str, Path | None], ModelEntry]
"""The model that a name stands for, looked up from here, or else from above the folder of the run that names it."""


KINDS = ("pretrained here", "tuned here", "pulled", "copied by hand")
"""Where a model can be from."""


@dataclass(frozen=True)
class Provenance:
    """Where a model is from."""

    kind: str
    """One of `KINDS`."""
    detail: str
    """The same in some words: from which model, by which method, from which repository."""
    steps: int | None
    trained_parameters: int | None
    """How many numbers its last training changed; None if that is not told."""
    parameters: int | None
    """Of how many, as its run tells."""

    @property
    def trained_share(self) -> float | None:
        """Which share of the model its last training changed."""
        if self.trained_parameters is None or not self.parameters:
            return None
        return self.trained_parameters / self.parameters


def facts(subject: ModelEntry) -> Provenance:
    """What is told of a model: by its run, or by `origin.json` in its folder."""
    if not subject.training:
        origin = read_origin(subject.folder)
        if origin is None:
            return Provenance("copied by hand", "from a folder that does not say its origin", None, None, None)
        where, revision = str(origin.get("repository", "?")), str(origin.get("revision", ""))[:12]
        return Provenance("pulled", f"{where} at {revision}" if revision else where, None, None, None)
    summary = _summary(subject.folder)
    progress = subject.training.get("progress")
    steps = progress.get("step") if isinstance(progress, dict) else None
    parameters, trained = summary.get("parameters"), summary.get("trained_parameters")
    if subject.base is None:
        data = ", ".join(map(str, subject.settings.get("data") or ())) or "text that it does not name"
        return Provenance("pretrained here", f"on {data}", steps, parameters, parameters)
    method = summary.get("method") or subject.settings.get("method") or "a method that it does not name"
    task = subject.settings.get("task", "text")
    data = ", ".join(map(str, subject.settings.get("data") or ())) or "data that it does not name"
    return Provenance(
        "tuned here", f"from {subject.base} on {data}, method {method}, task {task}", steps, trained, parameters
    )


def collect(names: Sequence[str], find: Find) -> list[ModelEntry]:
    """The models to compare.

    Raises:
        RequestError: for fewer than two, or one that is named twice.
        CheckpointError: for one that cannot be found.
    """
    if len(names) < 2:
        given = f"only {names[0]} was named" if names else "none was named"
        raise RequestError(
            f"A comparison takes two models or more, and {given}.",
            "Name them one after the other: handloom compare runs/one runs/two",
        )
    found: list[ModelEntry] = []
    for name in names:
        subject = find(name, None)
        for other in found:
            if other.folder.resolve() == subject.folder.resolve():
                twice = name if other.name == name else f"{other.name} and {name} are the same model, which"
                raise RequestError(
                    f"{twice} is named twice.", "Leave one out; a checkpoint inside the run may be named too."
                )
        found.append(subject)
    return found


def base_models(subject: ModelEntry, others: Sequence[ModelEntry], find: Find) -> tuple[list[ModelEntry], str | None]:
    """The model that a model was tuned from, the one that that was tuned from, and so on.

    Args:
        subject: where to begin.
        others: taken if they are the ones that are meant.
        find: for all others.

    Returns:
        them, nearest first; and why the last one that is named cannot be had, if so.
    """
    line: list[ModelEntry] = []
    at = subject
    while at.base is not None:
        try:
            above = find(str(at.lies_on or at.base), at.folder)
        except HandloomError as error:
            return line, error.problem
        above = next((s for s in others if s.folder.resolve() == above.folder.resolve()), above)
        if above.folder in (subject.folder, *(each.folder for each in line)):
            return line, f"{at.name} says that it was tuned from itself."
        line.append(above)
        at = above
    return line, None


def _summary(folder: Path) -> dict[str, Any]:
    """The `summary.json` of the run that a checkpoint lies in, if there is one."""
    if folder.parent.name != native.CHECKPOINTS:
        return {}
    try:
        return storage.read_json(folder.parent.parent / "summary.json")
    except CheckpointError:
        return {}
