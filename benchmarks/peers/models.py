"""One model of GPT-2's 124M shape with random weights, in every format that an engine reads."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_models(folder: Path) -> None:
    """Write what is not there yet: hf/, f32/, f16/, q8_0/, q4_0/ (GGUF), ctranslate2/, openvino/, openvino-int8/."""
    import gguf

    from handloom.checkpoints import gguf_export
    from handloom.checkpoints.hf_export import export_folder
    from handloom.model.config import preset
    from handloom.model.gpt import GPT
    from handloom.tokenizer import load_tokenizer

    if not (folder / "hf").exists():
        model, tokenizer = GPT(preset("gpt2")), load_tokenizer("gpt2")
        export_folder(folder / "hf", model, tokenizer)
        for kind in ("f32", "f16"):
            gguf_export.export_gguf(folder / kind, model, tokenizer, precision=kind)  # type: ignore[arg-type]
        plain = gguf_export._write_tensors
        for kind in ("q8_0", "q4_0"):
            gguf_export._write_tensors = _quantized(gguf.GGMLQuantizationType[kind.upper()])
            gguf_export.export_gguf(folder / kind, model, tokenizer)
        gguf_export._write_tensors = plain
    if importlib.util.find_spec("ctranslate2") and not (folder / "ctranslate2").exists():
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(folder / "hf")).convert(str(folder / "ctranslate2"))
    optimum = shutil.which("optimum-cli") or shutil.which("optimum-cli", path=str(Path(sys.executable).parent))
    for name, weights in (("openvino", "fp32"), ("openvino-int8", "int8")):
        if optimum and not (folder / name).exists():
            command = [optimum, "export", "openvino", "--model", str(folder / "hf"), "--weight-format", weights]
            subprocess.run([*command, "--task", "text-generation-with-past", str(folder / name)], check=True)


def _quantized(form: Any) -> Callable[..., None]:
    """A writer of tensors in this format; the table of tokens, which is the head too, in 8 bits."""
    import gguf

    def write(writer: Any, tensors: dict[str, Any], halves: set[str]) -> None:
        for name, tensor in tensors.items():
            numbers = tensor.detach().contiguous().numpy()
            if tensor.dim() == 1 or name.startswith("position"):
                writer.add_tensor(name, numbers)
                continue
            own = gguf.GGMLQuantizationType.Q8_0 if name.startswith("token_embd") else form
            writer.add_tensor(name, gguf.quants.quantize(numbers, own), raw_dtype=own)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()

    return write


if __name__ == "__main__":
    make_models(Path(sys.argv[1]))
