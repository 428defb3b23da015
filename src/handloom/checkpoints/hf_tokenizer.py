"""The tokenizer of a Hugging Face folder, from its small files alone: `pull` reads it before it fetches any weights.

Knows no torch and no weights.
"""

from __future__ import annotations

import re
from pathlib import Path

from handloom import storage
from handloom.checkpoints.model_store import read_origin
from handloom.errors import CheckpointError
from handloom.model.config import GPTConfig
from handloom.tokenizer import hf_settings, load_tokenizer
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.vocab_files import MERGES, TOKENIZER_JSON, VOCABULARY

SMALL = hf_settings.READ
"""The files next to config.json that describe the tokenizer and its settings; `pull` fetches them first."""

_ANY_KIND = re.compile(
    r"(vocab|merges|spiece|sentencepiece|bpe|encoder|tekken|added_tokens|special_tokens).*|.*tokenizer.*|.*\.(model|tiktoken)"
)


def read_tokenizer(folder: Path, config: GPTConfig) -> Tokenizer:
    """The folder's own tokenizer, or GPT-2's for a model of its vocabulary that comes without any.

    Special tokens without rows in the model, such as many a padding token, are left out: no text has them. Raises
    CheckpointError: it is missing, has more ids than the model, or is not the one that was pulled with the model;
    DataError: it is damaged or of another kind.
    """
    _require_pulled_files(folder)
    if lacks_tokenizer(folder, config):
        return load_tokenizer("gpt2")
    if not any((folder / name).is_file() for name in (VOCABULARY, MERGES, TOKENIZER_JSON)):
        others = _tokenizer_files(folder)
        raise CheckpointError(
            f"{folder} contains no tokenizer that Handloom reads: {VOCABULARY} and {MERGES} (or {TOKENIZER_JSON}) are "
            "missing" + (f"; there is {', '.join(others)}." if others else "."),
            "Put them into the folder of the weights, from where the model came.",
        )
    tokenizer = load_tokenizer(folder, rows=config.vocab_size)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"The tokenizer in {folder} has {tokenizer.vocab_size} ids, and its model {config.vocab_size}.",
            "They do not belong together; fetch the folder again from where it came.",
        )
    return tokenizer


def lacks_tokenizer(folder: Path, config: GPTConfig) -> bool:
    """Whether a model with GPT-2's vocabulary comes without a tokenizer file of any kind: GPT-2's is used."""
    return config.vocab_size == GPTConfig().vocab_size and not _tokenizer_files(folder)


def is_of_tokenizer(name: str) -> bool:
    """Whether a file of that name describes a tokenizer, of whatever kind."""
    return _ANY_KIND.fullmatch(name) is not None


def _tokenizer_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if is_of_tokenizer(path.name) and path.is_file())


def _require_pulled_files(folder: Path) -> None:
    """Raise CheckpointError unless the tokenizer is the one that `origin.json`, if there is one, describes."""
    described = (read_origin(folder) or {}).get("files")
    for name in SMALL:
        entry = described.get(name) if isinstance(described, dict) else None
        wanted = entry.get("sha256") if isinstance(entry, dict) else None
        if wanted and (folder / name).is_file() and (found := storage.sha256(folder / name)) != wanted:
            raise CheckpointError(
                f"{folder / name} is not the tokenizer that was pulled with its model: SHA-256 {found[:12]} instead "
                f"of {str(wanted)[:12]}.",
                "Pull the model again; only changed files are fetched.",
            )
