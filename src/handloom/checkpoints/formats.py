"""What a folder or file that is not ours contains, by file names: the weights that are read, and a remedy for others.

One table, which reading, `pull` and the look-up of a model share. Knows no torch, and opens no file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from handloom.checkpoints.model_store import CONFIG
from handloom.errors import CheckpointError
from handloom.ownership import CHECKPOINTS

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"
"""The suffix of the index of a file in several shards."""
GGUF = ".gguf"
NANOGPT = "ckpt.pt"
ADAPTER_CONFIG = "adapter_config.json"
SUFFIXES = (GGUF, ".pt", ".pth", ".bin", ".safetensors", ".json")
"""Of names that mean a file rather than a folder, a run or a pulled model."""
AGAIN = "Copy or fetch the folder again from where it came."
DTYPES = "Handloom reads float32, float16 and bfloat16."

_READ = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")
_ORIGINAL = f"Use the repository of the model that it was made from: it has {SAFETENSORS}."
_NAME_FILE = "Name the file itself as the model: PATH/{name}."
_WHOLE = "If that is the whole model, call it "


def _with_transformers(library: str, argument: str) -> str:
    return (
        f"If no {SAFETENSORS} of it can be found, convert it where transformers 4 and {library} are installed: "
        f"GPT2LMHeadModel.from_pretrained(FOLDER, {argument}=True).save_pretrained(NEW_FOLDER)."
    )


_OTHERS = (
    (r".*\.h5|.*\.ckpt(\.\w+.*)?|checkpoint|saved_model\.pb", "weights of TensorFlow",
     _with_transformers("TensorFlow", "from_tf")),
    (r".*\.msgpack", "weights of Flax", _with_transformers("Flax", "from_flax")),
    (r".*\.(onnx|onnx_data|ort)", "a model compiled to ONNX", _ORIGINAL),
    (r"openvino_model.*|.*\.(mlmodel|mlpackage|tflite|ot|engine)", "a model compiled for another library", _ORIGINAL),
    (r"quantize_config\.json|quant_config\.json|.*(gptq|awq|marlin|bnb|exl2|[-_.]4bit|[-_.]8bit).*\.(safetensors|bin|pt)",
     "quantized weights (GPTQ, AWQ or alike)", f"{DTYPES} {_ORIGINAL}"),
    (r".*\.gguf", "a model for llama.cpp", _NAME_FILE),
    (r"ckpt\.pt", "a model of nanoGPT", _NAME_FILE),
    (r"adapter_model\.(safetensors|bin)|adapter_config\.json", "an adapter",
     "Name the model that it was trained on as `model`, and the folder of the adapter as `adapter`."),
    (r".*\.safetensors", "weights under another name", f"{_WHOLE}{SAFETENSORS}."),
    (r".*\.(bin|pt|pth)", "weights under another name", f"{_WHOLE}{PICKLED}."),
)  # fmt: skip
"""Of the names of files: a pattern, what such a file is, and the remedy."""


def choose_weights(names: Collection[str], where: str, otherwise: str = AGAIN) -> str:
    """The file of weights, or their index, in the best form there is among the files of `where`.

    Args:
        names: of all files of the folder or repository.
        where: its name, for the error.
        otherwise: the remedy if no file is of a known kind.

    Raises CheckpointError naming the file that is there instead, and the remedy.
    """
    for name in (SAFETENSORS, PICKLED):
        for found in (name, name + INDEX):
            if found in names:
                return found
    what, remedy = other_format(names) or ("", otherwise)
    raise CheckpointError(
        f"{where} contains weights in none of the forms that Handloom reads: neither {SAFETENSORS} nor {PICKLED}, and "
        f"no index of several files{what}.",
        remedy,
    )


def other_format(names: Iterable[str]) -> tuple[str, str] | None:
    """The first file of a kind that we do not read as it is: the end of a sentence about it, and the remedy."""
    names = sorted(name for name in names if not _READ.fullmatch(name))
    for pattern, what, remedy in _OTHERS:
        for name in names:
            if re.fullmatch(pattern, name.rpartition("/")[2], re.IGNORECASE):
                return f"; {name} holds {what}", remedy.replace("{name}", name)
    return None


def no_model(path: Path) -> CheckpointError:
    """The error for a file or folder that is not a model, with the remedy for what it is instead."""
    if path.is_file():
        return CheckpointError(
            f"{path} is a file, and a model is a folder (or a GGUF file, or nanoGPT's {NANOGPT}).",
            f"Name its folder: {path.parent}.",
        )
    if inner := _inner_models(path):
        where = "a folder in it is" if len(inner) == 1 else f"{len(inner)} folders in it are"
        return CheckpointError(f"{path} is not a model itself, but {where}.", name_one(inner))
    names = {entry.name for entry in path.iterdir() if entry.is_file()}
    if weights := sorted(names & {name + end for name in (SAFETENSORS, PICKLED) for end in ("", INDEX)}):
        return CheckpointError(
            f"{path} contains weights, {weights[0]}, without the {CONFIG} that describes their model.",
            f"Put the {CONFIG} of that model into the same folder, and its tokenizer files.",
        )
    what, remedy = other_format(names) or ("", "Name a run folder such as runs/demo.")
    return CheckpointError(
        f"{path} is neither a run folder (without {CHECKPOINTS}/) nor a checkpoint or a Hugging Face folder (without "
        f"{CONFIG}){what}.",
        remedy,
    )


def name_one(paths: list[Path]) -> str:
    """The remedy that names up to three paths to choose from."""
    return f"Name {'it' if len(paths) == 1 else 'one of them'}: {', or '.join(map(str, paths[:3]))}."


def how_to_get(path: Path) -> str:
    """The remedy for a model that is neither there nor pulled."""
    if path.suffix in SUFFIXES:
        return f"Check the path; `ls {path.parent}` shows what is there."
    if re.fullmatch(r"(?!runs/)[\w.-]+(/[\w.-]+)?", path.as_posix()):
        return f"Fetch it with `handloom pull {path.as_posix()}`, or name a folder that was copied here by hand."
    return "Train one with `handloom train` (or `make demo`), or name a folder that was copied here by hand."


def _inner_models(folder: Path) -> list[Path]:
    """Inner folders that look like models, at the lowest depth; in the Hugging Face cache it is snapshots/REVISION."""
    marks = (CONFIG, ADAPTER_CONFIG, CHECKPOINTS, f"*{GGUF}", NANOGPT)
    for depth in ("*", "*/*"):
        found = {path.parent for mark in marks for path in folder.glob(f"{depth}/{mark}")}
        if shown := sorted(path for path in found if not path.name.startswith(".")):
            return shown
    return []
