"""Which files and folders a run reads: what replacing an earlier run must not remove."""

from __future__ import annotations

from pathlib import Path

from handloom.data.builtin import BUILTIN
from handloom.data.sources import files_of
from handloom.loading import find_model, folders_of
from handloom.training.config import FinetuneConfig, LoopSettings, TrainConfig


def read_by(config: LoopSettings) -> list[Path]:
    """The files of the data, the tokenizer's folder, and the model's with all models that it depends on.

    Raises:
        HandloomError: data or a model that is not there.
    """
    assert isinstance(config, TrainConfig | FinetuneConfig)
    found = [path for name in config.data if name != "-" and name not in BUILTIN for path in files_of(name)]
    if isinstance(config, FinetuneConfig):
        return found + folders_of(find_model(config.model, lambda note: None))
    return [*found, Path(config.tokenizer)]
