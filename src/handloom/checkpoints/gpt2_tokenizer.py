"""The tokenizer of a Hugging Face folder, from its small files alone: `pull` asks before any weights are fetched.

Knows no torch, and nothing of weights.
"""

from __future__ import annotations

from pathlib import Path

from handloom import storage
from handloom.checkpoints.pulled import read_origin
from handloom.errors import CheckpointError
from handloom.model.config import GPTConfig
from handloom.tokenizer.base import Tokenizer, load_tokenizer
from handloom.tokenizer.files import MERGES, SINGLE, VOCABULARY

SMALL = (
    VOCABULARY, MERGES, SINGLE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "generation_config.json",
)  # fmt: skip
"""The files beside config.json that say how a model's text is read and written: those that `pull` fetches first."""


def read_tokenizer(folder: Path, config: GPTConfig) -> Tokenizer:
    """The folder's own tokenizer, or GPT-2's for a model of its size that comes without one.

    Raises:
        CheckpointError: no tokenizer, one with more ids than the model has, or one that is not what was pulled with
            the model.
        DataError: a tokenizer that is damaged or of another kind.
    """
    _require_pulled_files(folder)
    if any((folder / name).is_file() for name in (VOCABULARY, MERGES, SINGLE)):
        tokenizer = load_tokenizer(folder)
    elif config.vocab_size == GPTConfig().vocab_size:
        tokenizer = load_tokenizer("gpt2")
    else:
        raise CheckpointError(
            f"{folder} has no tokenizer that Handloom reads: "
            f"{VOCABULARY} and {MERGES} (or {SINGLE}) are missing.",
            "Put them beside the weights, from where the model came.",
        )
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"The tokenizer in {folder} has {tokenizer.vocab_size} ids, and its model {config.vocab_size}.",
            "They do not belong together; fetch the folder again from where it came.",
        )
    return tokenizer


def _require_pulled_files(folder: Path) -> None:
    """Raise CheckpointError unless the tokenizer is the one that `origin.json`, if there is one, describes."""
    described = (read_origin(folder) or {}).get("files")
    for name in (VOCABULARY, MERGES, SINGLE):
        entry = described.get(name) if isinstance(described, dict) else None
        wanted = entry.get("sha256") if isinstance(entry, dict) else None
        if wanted is None or not (folder / name).is_file():
            continue
        if (found := storage.sha256(folder / name)) != wanted:
            raise CheckpointError(
                f"{folder / name} is not the tokenizer that was pulled with its model: SHA-256 "
                f"{found[:12]} instead of {str(wanted)[:12]}.",
                "Pull the model again; only what has changed is fetched.",
            )
