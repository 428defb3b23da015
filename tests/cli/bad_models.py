"""Models from elsewhere that are not what is read: other programs' files, single files, inner folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from bad_inputs import BadInput, without_gguf
from foreign_adapters import adapter_case, settings
from foreign_models import THEIRS, WEIGHTS, Bomb, files_case, model, tensors_case
from foreign_tokenizers import tokenizer

import gpt2_folders

GENERATE = "handloom generate Hello --model "
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 548105171\n"


def pointer_case(what: str, name: str) -> BadInput:
    """A sound folder in which Git LFS has not fetched one file."""

    def before(stack: ExitStack) -> None:
        gpt2_folders.write(THEIRS, model())
        tokenizer().save(THEIRS)
        (THEIRS / name).write_text(POINTER, encoding="utf-8")

    return BadInput(what, GENERATE + "theirs", before)


def instead_case(what: str, *names: str) -> BadInput:
    """A folder that has these files instead of weights."""

    def change() -> None:
        (THEIRS / WEIGHTS).unlink()
        for name in names:
            (THEIRS / name).write_bytes(b"\0")

    return files_case(what, change)


def place_case(what: str, named: str, make: Callable[[], object]) -> BadInput:
    """Something else than a folder of a model is named."""
    return BadInput(what, GENERATE + named, lambda stack: make() and None)


def sound(folder: Path = THEIRS) -> Path:
    return gpt2_folders.write(folder, model())


def weights_alone() -> None:
    (sound() / "config.json").unlink()


def gguf(path: str, architecture: str = "gpt2", change: Callable | None = None, dtype: type = np.float32) -> None:
    """A GGUF file with GPT-2's settings and a token embedding."""
    from gguf import GGUFWriter

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    if change is not None:
        change(writer)
    writer.add_tensor("token_embd.weight", np.ones((280, 8), dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sizes(heads: int = 2, tokenizer_model: str = "gpt2") -> Callable:
    """Writes the sizes, and the kind of tokenizer."""

    def change(writer) -> None:
        writer.add_context_length(16)
        writer.add_embedding_length(8)
        writer.add_block_count(1)
        writer.add_feed_forward_length(32)
        writer.add_head_count(heads)
        writer.add_layer_norm_eps(1e-5)
        writer.add_tokenizer_model(tokenizer_model)

    return change


def nanogpt(saved: object) -> None:
    torch.save(saved, "ckpt.pt")


ARGUMENTS = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16, "bias": False, "vocab_size": 65, "dropout": 0.0}


def with_letters() -> None:
    nanogpt({"model": nanogpt_tensors(), "model_args": ARGUMENTS})
    Path("meta.pkl").write_bytes(b"\x80\x02}.")


def nanogpt_tensors() -> dict[str, torch.Tensor]:
    from handloom.checkpoints.families.gpt2 import GPT2
    from handloom.model.config import GPTConfig
    from handloom.model.gpt import GPT

    config = GPTConfig(65, 16, 1, 2, 8)
    ours = GPT(config).state_dict()
    return {
        f"transformer.{n.theirs}": ours[n.ours].clone()
        for n in GPT2.tensors.of(config)
        if not n.theirs.endswith("bias")
    }


def inner(*places: str) -> Callable[[], None]:
    return lambda: [sound(Path(place)) for place in places] and None


def two_gguf() -> None:
    gguf("exports/demo-f16.gguf")
    gguf("exports/demo-q8_0.gguf")


def gguf_but_no_library(stack: ExitStack) -> None:
    gguf("x.gguf")
    without_gguf(stack)


def several_labels(stack: ExitStack) -> None:
    from handloom.model.surgery import add_classification_head

    judge = gpt2_folders.random_model()
    add_classification_head(judge, ("toxic", "insult"), 0)
    tokenizer().save(gpt2_folders.write(THEIRS, judge))
    gpt2_folders.edit_json(THEIRS / "config.json", problem_type="multi_label_classification")
    lines = [json.dumps({"text": f"text {n}", "label": label}) for n, label in enumerate(["toxic", "insult"] * 20)]
    Path("labels.jsonl").write_text("\n".join(lines), encoding="utf-8")


def foreign_adapter() -> None:
    Path("theirs/adapter_config.json").write_text(json.dumps({"config": {}, "model_type": "gpt2"}), encoding="utf-8")


CASES = [
    # Git LFS
    pointer_case("Weights that Git LFS has not fetched", WEIGHTS),
    pointer_case("A vocabulary that Git LFS has not fetched", "vocab.json"),
    pointer_case("A config.json that Git LFS has not fetched", "config.json"),
    # Other programs' weights, in a Hugging Face folder
    instead_case("No weights at all"),
    instead_case("Weights of TensorFlow", "tf_model.h5"),
    instead_case("Weights of Flax", "flax_model.msgpack"),
    instead_case("A model compiled to ONNX", "decoder_model.onnx"),
    instead_case("Quantized weights with their own settings", "quantize_config.json", "gptq_model-4bit.safetensors"),
    instead_case("Weights for llama.cpp in a Hugging Face folder", "gpt2.Q8_0.gguf"),
    instead_case("Weights under another name", "model.fp16.safetensors"),
    tensors_case(
        "Quantized weights among the tensors",
        lambda t: t.update({"transformer.h.0.mlp.c_fc.qweight": torch.ones(1, 32, dtype=torch.int32)}),
    ),
    BadInput(
        "Learning one label with a model that gives several",
        "handloom finetune --model theirs --data labels.jsonl --task classify --run r",
        several_labels,
    ),
    # Files and folders that are no models
    place_case("A file that is not there", "downloads/gpt2.gguf", lambda: None),
    place_case("A file of a model", "theirs/model.safetensors", sound),
    place_case("Weights without a config.json", "theirs", weights_alone),
    place_case("A folder with a model in a folder", "downloads", inner("downloads/gpt2")),
    place_case("A folder of runs", "outputs", inner(*(f"outputs/checkpoint-{n}00" for n in range(1, 6)))),
    place_case(
        "A model in the cache of Hugging Face", "models--gpt2", inner("models--gpt2/snapshots/607a30d783dfa663caf3")
    ),
    # GGUF
    place_case("A folder with two GGUF files", "exports", two_gguf),
    place_case("A GGUF file that is none", "x.gguf", lambda: Path("x.gguf").write_bytes(b"GGUF")),
    place_case("A GGUF file of another architecture", "x.gguf", lambda: gguf("x.gguf", "llama")),
    place_case("A GGUF file that lacks its sizes", "x.gguf", lambda: gguf("x.gguf")),
    place_case("A GGUF file of sizes that are none", "x.gguf", lambda: gguf("x.gguf", change=sizes(heads=3))),
    place_case(
        "A GGUF file with another tokenizer", "x.gguf", lambda: gguf("x.gguf", change=sizes(tokenizer_model="llama"))
    ),
    place_case(
        "A GGUF file with a tensor that cannot be read",
        "x.gguf",
        lambda: gguf("x.gguf", change=sizes(), dtype=np.float64),
    ),
    BadInput("A GGUF file to read without the library for it", GENERATE + "x.gguf", gguf_but_no_library),
    # nanoGPT
    place_case("A ckpt.pt of another program", "ckpt.pt", lambda: nanogpt({"state_dict": {}, "epoch": 3})),
    place_case("A ckpt.pt that is a program", "ckpt.pt", lambda: nanogpt({"model": Bomb(), "model_args": {}})),
    place_case(
        "A ckpt.pt of a changed nanoGPT",
        "ckpt.pt",
        lambda: nanogpt({"model": {}, "model_args": {**ARGUMENTS, "n_kv_head": 1, "rope": True}}),
    ),
    place_case(
        "A ckpt.pt of sizes that are none",
        "ckpt.pt",
        lambda: nanogpt({"model": {}, "model_args": {**ARGUMENTS, "n_head": 3}}),
    ),
    place_case("A ckpt.pt whose ids stand in a pickle", "ckpt.pt", with_letters),
    # Adapters
    adapter_case("An adapter that stands before the text", settings(peft_type="PROMPT_TUNING", num_virtual_tokens=8)),
    adapter_case("An adapter of another library", foreign_adapter),
]
