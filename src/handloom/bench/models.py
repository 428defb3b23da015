"""The model of a measurement: from disk, or of a preset's shape with random weights."""

from __future__ import annotations

from collections.abc import Callable

from handloom.loading import load
from handloom.model.config import preset
from handloom.model.gpt import GPT
from handloom.quantization.precision import set_precision
from handloom.tuned import is_preset


def open_model(name: str, precision: str, on_note: Callable[[str], None]) -> GPT:
    """The model in that precision, in evaluation mode. Raises HandloomError as `handloom.load` does."""
    if is_preset(name):
        return set_precision(GPT(preset(name)).eval(), precision, on_note).eval()
    return load(name, on_note, precision=precision, merge=True).model.eval()


def weight_bytes(model: GPT) -> int:
    """Bytes of weights that one token reads: all but the tables that are looked up, unless the head reads them too."""
    tensors = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        table = name.startswith("embedding.position") or (
            name.startswith("embedding.") and not model.config.tie_embeddings
        )
        if not table:
            tensors[tensor.data_ptr()] = tensor.nbytes
    return sum(tensors.values())
