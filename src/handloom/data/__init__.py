"""Text on disk becomes batches: corpus -> plan -> pieces -> shards -> windows.

Names are resolved on first use, so that the command line and the worker processes import only what
they need. Knows tokenizers by their protocol; knows no torch, no model and no training.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handloom.data.corpus import Corpus, Document, open_corpus
    from handloom.data.shards import Shard, ShardWriter, open_shard
    from handloom.data.tokenized import PreparedData, PrepareStats, prepare, training_documents
    from handloom.data.windows import Windows, validation_batches

__all__ = [
    "Corpus",
    "Document",
    "PrepareStats",
    "PreparedData",
    "Shard",
    "ShardWriter",
    "Windows",
    "open_corpus",
    "open_shard",
    "prepare",
    "training_documents",
    "validation_batches",
]

_HOME = {
    "corpus": ("Corpus", "Document", "open_corpus"),
    "tokenized": ("PreparedData", "PrepareStats", "prepare", "training_documents"),
    "shards": ("Shard", "ShardWriter", "open_shard"),
    "windows": ("Windows", "validation_batches"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
