"""The model that a command names, with the adapters that are to lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from handloom.inference.language_model import LanguageModel
    from handloom.model.config import GPTConfig

AdapterFlag = Annotated[
    list[str] | None,
    Parameter(
        name="--adapter",
        help="Lay an adapter beside the model: a run tuned with LoRA, or a folder in PEFT's format. B:0.5 takes half "
        "of it. May be given several times.",
    ),
]


def load_named(model: Path, adapter: Sequence[str] | None = None) -> LanguageModel:
    """Load a model as a command does: notes go to standard error, adapters are merged into the weights.

    Raises:
        HandloomError: as `handloom.load`.
    """
    from handloom.console import note
    from handloom.finetuning import lora
    from handloom.loading import load

    lm = load(model, note, tuple(adapter or ()))
    lora.merge(lm.model)
    return lm


def note_labels(name: str, config: GPTConfig) -> None:
    """Say of a model with a label head that its labels are not what is measured."""
    from handloom.console import note

    if config.label_names:
        named = ", ".join(config.label_names[:_NAMED]) + (", ..." if len(config.label_names) > _NAMED else "")
        note(
            f"{name} has a label head ({named}), which is not measured here: the figures are of the text that the "
            "model under it writes."
        )


_NAMED = 6
