"""Adapters that are refused: a part of the second table of docs/errors.md.

Each case begins in an empty folder and makes there what is wrong: an adapter `theirs`, which somebody else has
filled, beside a sound model `base`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from bad_inputs import BadInput
from foreign_models import THEIRS, model
from foreign_tokenizers import tokenizer

import gpt2_folders
from handloom.checkpoints import hf_folder, native, peft, safetensors_io
from handloom.finetuning import lora
from handloom.finetuning.lora import LoRAConfig

BASE = Path("base")
ALONE = "handloom generate Hello --model theirs"
BESIDE = "handloom generate Hello --model base --adapter theirs"
A = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"


def base(seed: int = 0) -> None:
    """A sound model in `base`."""
    gpt2_folders.write(BASE, model() if seed == 0 else gpt2_folders.random_model(seed=seed))
    tokenizer().save(BASE)


def adapter(folder: Path = THEIRS) -> None:
    """A sound adapter beside it, in PEFT's format."""
    wrapped = hf_folder.open_folder(BASE).load_model()
    lora.add_adapter(wrapped, LoRAConfig(r=2), seed=1)
    folder.mkdir(parents=True)
    peft.write_adapter(folder, wrapped, LoRAConfig(r=2), str(BASE))


def ours(folder: Path, name: str = str(BASE)) -> None:
    """The same as a checkpoint of our own."""
    wrapped = hf_folder.open_folder(BASE).load_model()
    beside = native.BaseModelRef(name, native.fingerprint(wrapped))
    lora.add_adapter(wrapped, LoRAConfig(r=2), seed=1)

    def write(aside: Path) -> None:
        peft.write_adapter(aside, wrapped, LoRAConfig(r=2), name)

    native.save(folder, wrapped, tokenizer(), {"progress": {"step": 3}}, adapter=(beside, write))


def adapter_case(what: str, change: Callable[[], object], command: str = BESIDE) -> BadInput:
    """A sound adapter and a sound model, to which something was done."""

    def before(stack: ExitStack) -> None:
        base()
        adapter()
        change()

    return BadInput(what, command, before)


def ours_case(what: str, change: Callable[[], object], command: str = ALONE, name: str = str(BASE)) -> BadInput:
    """The same with an adapter that was trained here."""

    def before(stack: ExitStack) -> None:
        base()
        ours(THEIRS, name)
        change()

    return BadInput(what, command, before)


def settings(**changes: object) -> Callable[[], None]:
    """The adapter's adapter_config.json with other values."""
    return lambda: gpt2_folders.edit_json(THEIRS / peft.CONFIG, **changes)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[], None]:
    """The adapter's weights with something done to them."""

    def before() -> None:
        found = {name: tensor.clone() for name, tensor in safetensors_io.read_tensors(THEIRS / peft.WEIGHTS).items()}
        change(found)
        safetensors_io.write_tensors(THEIRS / peft.WEIGHTS, found)

    return before


def rows_for(tokens: object) -> Callable[[], None]:
    """The adapter's adapter_config.json naming tokens whose rows it brings."""
    return settings(trainable_token_indices=tokens)


def without_base() -> None:
    values = json.loads((THEIRS / peft.CONFIG).read_text(encoding="utf-8"))
    (THEIRS / peft.CONFIG).write_text(json.dumps({**values, "base_model_name_or_path": None}), encoding="utf-8")


CASES = [
    adapter_case("An adapter of another kind", settings(peft_type="LOHA")),
    adapter_case("An adapter that trained biases too", settings(bias="all")),
    adapter_case("A setting of an adapter that would change the computation", settings(lora_bias=True)),
    adapter_case("A rank that is not a number", settings(r="eight")),
    adapter_case("A rank that is not the tensor's", settings(r=3)),
    adapter_case("A tensor missing in an adapter", tensors(lambda found: found.pop(A))),
    adapter_case("A tensor of another shape in an adapter", tensors(lambda found: found.update({A: found[A][:, :4]}))),
    adapter_case(
        "A tensor of no use in an adapter", tensors(lambda found: found.update({"lm_head.weight": found[A].clone()}))
    ),
    adapter_case("An adapter that is not finite", tensors(lambda found: found[A].fill_(float("nan")))),
    adapter_case("An adapter without tensors", tensors(lambda found: found.clear())),
    adapter_case(
        "A folder that is not an adapter",
        lambda: Path("notes").mkdir(),
        "handloom generate Hello --model base --adapter notes",
    ),
    adapter_case(
        "An adapter that is not there", lambda: None, "handloom generate Hello --model base --adapter runs/none"
    ),
    adapter_case("An adapter's weight that is not a number", lambda: None, f"{BESIDE}:half"),
    adapter_case("A share that is not finite", lambda: None, f"{BESIDE}:nan"),
    adapter_case("Rows for a token that the model does not know", rows_for([3, 999])),
    adapter_case("Rows for tokens that are missing", rows_for([3])),
    adapter_case("Rows of another matrix than the token embedding", rows_for({"lm_head": [3]})),
    adapter_case("A whole model as an adapter", lambda: whole(Path("whole")), f"{BESIDE.replace('theirs', 'whole')}"),
    adapter_case("An adapter that does not say its base", without_base, ALONE),
    adapter_case(
        "Two adapters of one name",
        lambda: adapter(Path("more/theirs")),
        "handloom generate Hello --model base --adapter theirs --adapter more/theirs",
    ),
    ours_case("An adapter whose base is gone", lambda: BASE.rename("elsewhere")),
    ours_case("An adapter of other weights", lambda: base(seed=1)),
]


def whole(folder: Path) -> None:
    native.save(folder, model(), tokenizer(), {"progress": {"step": 3}})
