"""What a folder or file from elsewhere is, by its name: the weights that are read, and the way on from others.

One table, which reading, `pull` and the look-up of a model go by. Knows no torch, and opens files only to see
whether Git LFS left a pointer there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from handloom.errors import CheckpointError

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"
"""What follows the name of a file that is cut into several."""
GGUF = ".gguf"
SUFFIXES = (GGUF, ".pt", ".pth", ".bin", ".safetensors", ".json")
"""Of names that mean a file rather than a folder, a run or a pulled model."""
NANOGPT = "ckpt.pt"
"""nanoGPT's one file, in which its training saves everything."""

_AGAIN = "Copy or fetch the folder again from where it came."
_READ = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")
_ORIGINAL = "Use the repository of the model that it was made from: it has {SAFETENSORS}."
_WITH_TRANSFORMERS = (
    "If there is no {SAFETENSORS} of it to be had, convert it where transformers 4 and {library} are installed: "
    "GPT2LMHeadModel.from_pretrained(FOLDER, {flag}=True).save_pretrained(NEW_FOLDER)."
)
_KINDS = (
    (r".*\.h5|.*\.ckpt(\.\w+.*)?|checkpoint|saved_model\.pb", "weights of TensorFlow",
     _WITH_TRANSFORMERS.replace("{library}", "TensorFlow").replace("{flag}", "from_tf")),
    (r".*\.msgpack", "weights of Flax", _WITH_TRANSFORMERS.replace("{library}", "Flax").replace("{flag}", "from_flax")),
    (r".*\.(onnx|onnx_data|ort)", "a model compiled to ONNX", _ORIGINAL),
    (r"openvino_model.*|.*\.(mlmodel|mlpackage|tflite|ot|engine)", "a model compiled for another library", _ORIGINAL),
    (r"quantize_config\.json|quant_config\.json|.*(gptq|awq|marlin|bnb|exl2|[-_.]4bit|[-_.]8bit).*\.(safetensors|bin|pt)",
     "quantized weights (GPTQ, AWQ or alike)", "Handloom reads float32, float16 and bfloat16. " + _ORIGINAL),
    (r".*\.gguf", "a model for llama.cpp", "Name the file itself, wherever it lies: --model PATH/{name}."),
    (r"ckpt\.pt", "a model of nanoGPT", "Name the file itself, wherever it lies: --model PATH/{name}."),
    (r"adapter_model\.(safetensors|bin)|adapter_config\.json", "an adapter",
     "Name the model that it was trained with, and the adapter: --model MODEL --adapter FOLDER."),
    (r".*\.safetensors", "weights under another name", "If that is the whole model, call it {SAFETENSORS}."),
    (r".*\.(bin|pt|pth)", "weights under another name", "If that is the whole model, call it {PICKLED}."),
)  # fmt: skip
"""Of the names of files: a pattern, what such a file is, and the way on."""


def choose_weights(names: Collection[str], where: str, otherwise: str = _AGAIN) -> str:
    """The file of weights among those of a folder or repository in the best form there is, or its index.

    Args:
        names: of all files.
        where: they lie, for messages.
        otherwise: the way on if none of them says any.

    Raises:
        CheckpointError: when there is none; it says what there is instead, and the way on.
    """
    for name in (SAFETENSORS, PICKLED):
        for found in (name, name + INDEX):
            if found in names:
                return found
    told = way_on(names)
    raise CheckpointError(
        f"{where} holds no weights that Handloom reads: there is neither {SAFETENSORS} nor {PICKLED}, and no index of "
        f"several files{told[0] if told else ''}.",
        told[1] if told else otherwise,
    )


def way_on(names: Iterable[str]) -> tuple[str, str] | None:
    """What the first file of a known kind among these is, as the end of a sentence, and what to do about it."""
    names = sorted(name for name in names if not _READ.fullmatch(name))
    for pattern, what, remedy in _KINDS:
        for name in names:
            if re.fullmatch(pattern, name.rpartition("/")[2], re.IGNORECASE):
                for word, value in (("SAFETENSORS", SAFETENSORS), ("PICKLED", PICKLED), ("name", name)):
                    remedy = remedy.replace(f"{{{word}}}", value)
                return f"; {name} holds {what}", remedy
    return None
