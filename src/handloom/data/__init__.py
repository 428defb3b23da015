"""Text on disk becomes batches: corpus -> split -> pieces -> shards -> windows.

Names are resolved on first use, so that the command line imports only what it needs. Knows tokenizers by their
protocol; knows no torch, no model and no training.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handloom.data.corpus import Corpus, Document, open_corpus
    from handloom.data.shards import Shard, ShardWriter, open_shard
    from handloom.data.tokenized import PreparedData, PrepareStats, prepare, training_documents
    from handloom.data.windows import Windows, validation_batches

__all__ = ["Corpus", "Document", "PrepareStats", "PreparedData", "Shard", "ShardWriter", "Windows"]
__all__ += ["open_corpus", "open_shard", "prepare", "training_documents", "validation_batches"]
_HOME = {
    **dict.fromkeys(("Corpus", "Document", "open_corpus"), "corpus"),
    **dict.fromkeys(("PreparedData", "PrepareStats", "prepare", "training_documents"), "tokenized"),
    **dict.fromkeys(("Shard", "ShardWriter", "open_shard"), "shards"),
    **dict.fromkeys(("Windows", "validation_batches"), "windows"),
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} does not define {name!r}")
