"""Where a tuned profile applies: a model's name, and nothing that the user chose, -> the settings found by `tune`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from handloom.checkpoints.model_store import model_folder
from handloom.hardware import profiles
from handloom.hardware.profiles import Profile
from handloom.loading import find_model, folders_of
from handloom.model.config import PRESETS, preset
from handloom.quantization.precision import ENVIRONMENT


def is_preset(name: str) -> bool:
    """Whether the name means a shape with random weights: that of a preset, and of no model on disk."""
    return name in PRESETS and not Path(name).exists() and not model_folder(name).is_dir()


def identity_of(name: str, on_note: Callable[[str], None] = lambda note: None) -> tuple[str, int]:
    """The `profiles.identity` and the context length of a model on disk, or of a preset.

    Raises CheckpointError for a model that is not there.
    """
    if is_preset(name):
        config = preset(name)
        return profiles.identity(config.to_dict()), config.context_length
    source = find_model(name, on_note)
    return profiles.identity(source.config.to_dict(), folders_of(source)), source.config.context_length


def profile_for(name: str | Path, on_note: Callable[[str], None]) -> Profile | None:
    """The profile of a model, unless there is none that holds, or the environment says threads or precision.

    Raises CheckpointError for a model that is not there.
    """
    if os.environ.get("OMP_NUM_THREADS") or os.environ.get(ENVIRONMENT) or not profiles.kept_profiles():
        return None
    return profiles.find(identity_of(str(name))[0], on_note)
