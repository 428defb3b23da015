"""Models from elsewhere that are refused: the beginning of the second table of docs/errors.md.

Each case begins in an empty folder and makes there what is wrong: a folder `theirs`, as gpt2_folders.py
writes it.
"""

from __future__ import annotations

import functools
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from bad_inputs import BadInput

import gpt2_folders

THEIRS = Path("theirs")
WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = "model.safetensors.index.json"
NORM = "transformer.h.1.ln_1.weight"
CRATER = Path("crater")
"""What a pickle bomb would leave behind."""


# A Hugging Face folder


@functools.cache
def model():
    return gpt2_folders.random_model()


def good():
    """The tensors of a sound folder, by name."""
    return gpt2_folders.theirs(model())


def config_case(what: str, **changes: object) -> BadInput:
    """A `config.json` with these keys; None takes a key away."""

    def before(stack: ExitStack) -> None:
        gpt2_folders.write(THEIRS, model())
        path = THEIRS / "config.json"
        values = json.loads(path.read_text(encoding="utf-8")) | changes
        kept = {key: value for key, value in values.items() if value is not None}
        path.write_text(json.dumps(kept), encoding="utf-8")

    return BadInput(what, "handloom generate Hello --model theirs", before)


def tensors_case(what: str, change: Callable[[dict], None]) -> BadInput:
    """Weights to which something was done before they were written."""

    def before(stack: ExitStack) -> None:
        tensors = good()
        change(tensors)
        gpt2_folders.write(THEIRS, model(), tensors)

    return BadInput(what, "handloom generate Hello --model theirs", before)


def files_case(what: str, change: Callable[[], None], form: str = "safetensors") -> BadInput:
    """A folder of that form to whose files something was done."""

    def before(stack: ExitStack) -> None:
        gpt2_folders.write(THEIRS, model(), form=form)
        change()

    return BadInput(what, "handloom generate Hello --model theirs", before)


def index_case(what: str, change: Callable[[dict], None]) -> BadInput:
    """Weights in three files, and an index that says something else. In it ln_f.bias is in the first file."""

    def before() -> None:
        places = json.loads((THEIRS / INDEX).read_text(encoding="utf-8"))["weight_map"]
        change(places)
        gpt2_folders.write_index(THEIRS / INDEX, places)

    return files_case(what, before, "sharded")


class Bomb:
    """Read as pickles are, it leaves a crater."""

    def __reduce__(self):
        return eval, (f"open({str(CRATER)!r}, 'w').close()",)


def pickle_with(content: object, **how: bool) -> Callable[[], None]:
    return lambda: torch.save(content, THEIRS / PICKLED, **how)


def torchscript() -> None:
    """A program of PyTorch's own kind: the archive has an entry that a file of tensors has not."""
    with zipfile.ZipFile(THEIRS / PICKLED, "a") as archive:
        archive.writestr(f"{PICKLED.removesuffix('.bin')}/constants.pkl", b"\x80\x02).")


def cut(name: str) -> Callable[[], None]:
    """Half of a file."""

    def change() -> None:
        content = (THEIRS / name).read_bytes()
        (THEIRS / name).write_bytes(content[: len(content) // 2])

    return change


def text(name: str, content: str) -> Callable[[], None]:
    return lambda: (THEIRS / name).write_text(content, encoding="utf-8")


def double(tensors: dict) -> None:
    tensors["ln_f.bias"] = tensors["transformer.ln_f.bias"].clone()


def not_finite(tensors: dict) -> None:
    tensors[NORM][3] = torch.nan


CASES = [
    # config.json
    files_case("A config.json that is not JSON", text("config.json", "{")),
    files_case("A config.json that is a list", text("config.json", "[]")),
    config_case("A config.json of another architecture", model_type="bert"),
    config_case("Several keys that are not known", rope_theta=10000, sliding_window=4096),
    config_case("Weights compressed by a library", compression_config={"format": "int-quantized"}),
    config_case("The first GPT", afn="gelu"),
    config_case("A problem type that is none", architectures=["GPT2ForSequenceClassification"], problem_type="ranking"),
    config_case(
        "Labels that are not numbered from 0",
        architectures=["GPT2ForSequenceClassification"],
        id2label={"0": "ham", "2": "spam"},
    ),
    config_case("A GPT-2 with a head that tells tokens apart", architectures=["GPT2ForTokenClassification"]),
    config_case("Cross attention", add_cross_attention=True),
    config_case("An encoder", is_encoder_decoder=True),
    config_case("Heads that were taken out", pruned_heads={"0": [1]}),
    config_case("Quantized weights", quantization_config={"bits": 4}),
    config_case("A model with code of its own", auto_map={"AutoModelForCausalLM": "code.Model"}),
    config_case("A key that is not known", rope_theta=10000),
    config_case("An activation that is not there", activation_function="silu"),
    config_case("Two numbers of positions", n_ctx=1024),
    config_case("Two spellings that contradict each other", hidden_size=512),
    config_case("A size that is none", n_layer=0),
    config_case("A size that is not a number", n_embd="768"),
    config_case("Heads that cannot share the width", n_head=3),
    config_case("A head tied by word", tie_word_embeddings="yes"),
    config_case("A dropout out of its range", attn_pdrop=1.5),
    config_case("An epsilon of nothing", layer_norm_epsilon=0),
    # Tensors
    tensors_case("A tensor that is missing", lambda t: t.pop(NORM)),
    tensors_case("A tensor under another name", lambda t: t.update({"transformer.h.1.ln1.weight": t.pop(NORM)})),
    tensors_case("A tensor of no use", lambda t: t.update({"score.weight": torch.zeros(2, 8)})),
    tensors_case("A tensor of another shape", lambda t: t.update({NORM: torch.zeros(9)})),
    tensors_case(
        "A matrix that is not turned",
        lambda t: t.update({"transformer.h.0.mlp.c_fc.weight": t["transformer.h.0.mlp.c_fc.weight"].T.contiguous()}),
    ),
    tensors_case("A tensor twice, with and without prefix", double),
    tensors_case("A head that is not the embedding", lambda t: t.update({"lm_head.weight": torch.ones(280, 8)})),
    tensors_case("A number that is none (NaN)", not_finite),
    tensors_case("A type of numbers that is not read", lambda t: t.update({NORM: torch.ones(8).double()})),
    # Files
    files_case("A truncated safetensors file", cut(WEIGHTS)),
    files_case("A truncated pytorch_model.bin", cut(PICKLED), "bin"),
    files_case("A truncated pytorch_model.bin of the old kind", cut(PICKLED), "bin-old"),
    files_case("A pickle that is a program", pickle_with({"wte.weight": Bomb()}), "bin"),
    files_case(
        "The same, of the old kind", pickle_with({"wte.weight": Bomb()}, _use_new_zipfile_serialization=False), "bin"
    ),
    files_case(
        "A pickle that torch has not written",
        lambda: (THEIRS / PICKLED).write_bytes(pickle.dumps({"wte.weight": Bomb()})),
        "bin",
    ),
    files_case("A TorchScript archive", torchscript, "bin"),
    files_case("A pickle without names", pickle_with([torch.zeros(2)]), "bin"),
    files_case("A pickle with more than tensors", pickle_with({"model": {}, "step": 3}), "bin"),
    # Several files
    files_case("An index that is not JSON", text(INDEX, "{"), "sharded"),
    files_case("An index without a map", text(INDEX, '{"weight_map": 3}'), "sharded"),
    index_case("An index that leads outside", lambda p: p.update({NORM: "../other.safetensors"})),
    index_case("An index that names a missing file", lambda p: p.update({NORM: "model-9.safetensors"})),
    index_case(
        "A tensor in another file than the index says",
        lambda p: p.update({"transformer.wte.weight": p["transformer.wpe.weight"]}),
    ),
    index_case("A tensor that the index does not name", lambda p: p.pop(NORM)),
    index_case(
        "A tensor that the named file does not hold",
        lambda p: p.update({"transformer.more": p["transformer.wte.weight"]}),
    ),
]
