"""The model that a command names, with the adapters that are to lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from handloom.inference.text import LanguageModel

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
