"""Hugging Face folders of GPT-2: every form is read exactly, and nothing is read that would be wrong."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from gpt2_folders import CONFIG, edit_json, random_model, theirs, write, write_index
from handloom import storage
from handloom.checkpoints import hf_folder, hf_weights
from handloom.checkpoints.families.gpt2 import GPT2
from handloom.checkpoints.hf_export import export_folder
from handloom.errors import CheckpointError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.hf_files import contents as tokenizer_files
from handloom.tokenizer.train import train_bpe

FORMS = ["safetensors", "sharded", "bin", "bin-sharded", "bin-old"]


def read(folder):
    return hf_folder.open_folder(folder).load_model()


def same(model, other):
    mine, others = model.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(mine[name].equal(others[name]) for name in mine)


# The table


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_is_one_to_one_and_complete(tied):
    config = GPTConfig(**{**CONFIG.to_dict(), "tie_embeddings": tied})
    table = list(GPT2.tensors.of(config))
    ours, others = [name.ours for name in table], [name.theirs for name in table]
    assert len(set(ours)) == len(set(others)) == len(table)
    assert set(ours) == set(GPT(config).state_dict())
    linear = {name for name, module in GPT(config).named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name.ours.removesuffix(".weight") for name in table if name.transposed} == linear - {"lm_head"}


@pytest.mark.parametrize("tied", [True, False])
def test_out_and_in_again_is_the_same_to_the_bit(tied):
    model = random_model(GPTConfig(**{**CONFIG.to_dict(), "tie_embeddings": tied, "ffn_dim": 13}))
    back = hf_folder.from_hf(theirs(model), model, "here")
    assert all(back[name].equal(tensor) for name, tensor in model.state_dict().items())


# The forms


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_every_form_is_read_exactly(tmp_path, form, prefix, tied):
    model = random_model(GPTConfig(**{**CONFIG.to_dict(), "tie_embeddings": tied}))
    tensors = {name if prefix else name.removeprefix("transformer."): t for name, t in theirs(model).items()}
    assert same(read(write(tmp_path, model, tensors, form)), model)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(tmp_path, monkeypatch, form, dtype):
    monkeypatch.setattr(hf_weights, "_AT_ONCE", 100)  # bytes, so that files are mapped anew many times
    model = random_model()
    halves = {name: tensor.to(dtype) for name, tensor in theirs(model).items()}
    back = read(write(tmp_path, model, halves, form))
    assert {tensor.dtype for tensor in back.state_dict().values()} == {torch.float32}
    assert all(back.state_dict()[name].equal(t.to(dtype).float()) for name, t in model.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_several_precisions_is_read_exactly(tmp_path, monkeypatch, form):
    monkeypatch.setattr(hf_weights, "_AT_ONCE", 100)
    model = random_model()
    mixed = {n: t.half() if "mlp" in n else t.bfloat16() if "attn" in n else t for n, t in theirs(model).items()}
    back = hf_folder.to_hf(read(write(tmp_path, model, mixed, form)))
    assert all(back[name].equal(tensor.float()) for name, tensor in mixed.items())


def test_stored_masks_are_ignored_by_name_and_a_stored_tied_head_if_it_says_the_same(tmp_path):
    model = random_model()
    tensors = theirs(model)
    for i in range(CONFIG.layers):
        tensors[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8).tril()
        tensors[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    assert same(read(write(tmp_path, model, tensors)), model)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_are_views_of_the_file(tmp_path, form):
    """Turned, not copied: each weight still lies as the file has it."""
    back = read(write(tmp_path, random_model(), form=form))
    assert back.blocks[0].feedforward.up.weight.stride() == (1, 32)
    before = back.lm_head.weight.clone()
    with torch.no_grad():
        back.lm_head.weight.zero_()  # the file is mapped so that this stays our own affair
    assert read(tmp_path).lm_head.weight.equal(before)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "bin", "sharded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_loading_takes_little_more_memory_than_the_weights_in_float32(tmp_path, form, dtype):
    """So float32 files take little more than themselves, and files in half precision little more than twice."""
    model = GPT(GPTConfig())  # GPT-2's own shape
    write(tmp_path, model, {name: tensor.to(dtype) for name, tensor in theirs(model).items()}, form)
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from handloom import runtime; from handloom.checkpoints import hf_folder\n"
        "torch.ones(8, 8) @ torch.ones(8, 8); torch.ones(9).half().float().sum()\n"
        "before = runtime.peak_memory_bytes(); model = hf_folder.open_folder(Path(sys.argv[1])).load_model()\n"
        "model(torch.zeros(1, 1, dtype=torch.int64)); print(runtime.peak_memory_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    float32 = sum(tensor.numel() * 4 for tensor in model.state_dict().values())
    assert 0.9 * float32 <= int(done.stdout) <= 1.15 * float32


# What is refused


def refuses(folder, *words):
    with pytest.raises(CheckpointError) as refused:
        read(folder)
    for word in words:
        assert word in str(refused.value)


def spoiled(model):
    """Tensors that are not the model's, and what has to be said about them."""
    good = theirs(model)
    norm = "transformer.h.1.ln_1.weight"
    renamed = {("transformer.h.1.ln1.weight" if name == norm else name): t for name, t in good.items()}
    nan = good["transformer.wte.weight"].clone()
    nan[3, 4] = torch.nan
    infinite = {**good, norm: torch.full((8,), torch.inf)}
    shape = good["transformer.h.0.attn.c_attn.weight"].T.contiguous()
    return {
        "missing": ({n: t for n, t in good.items() if n != norm}, ["h.1.ln_1.weight", "(8,)", "missing"]),
        "renamed": (renamed, ["h.1.ln_1.weight", "missing", "h.1.ln1.weight", "(8,)"]),
        "surplus": ({**good, "score.weight": torch.zeros(2, 8)}, ["score.weight", "(2, 8)", "does not have"]),
        "a third layer": (
            {**good, "transformer.h.2.ln_1.weight": torch.zeros(8)},
            ["h.2.ln_1.weight", "does not have"],
        ),
        "turned": ({**good, "transformer.h.0.attn.c_attn.weight": shape}, ["c_attn.weight", "(24, 8)", "(8, 24)"]),
        "twice": ({**good, "wte.weight": nan.clone()}, ["wte.weight", "more than one way"]),
        "nan": ({**good, "transformer.wte.weight": nan}, ["wte.weight", "not finite"]),
        "infinite": (infinite, ["h.1.ln_1.weight", "not finite"]),
        "whole numbers": ({**good, norm: torch.ones(8, dtype=torch.int64)}, ["ln_1.weight", "int64"]),
        "another head": ({**good, "lm_head.weight": torch.zeros(280, 8)}, ["lm_head.weight", "tie_word_embeddings"]),
    }


@pytest.mark.parametrize("what", spoiled(random_model()))
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_tensors_that_are_not_the_models_are_refused_by_name(tmp_path, what, form):
    tensors, words = spoiled(random_model())[what]
    refuses(write(tmp_path, random_model(), tensors, form), *words)


def test_large_finite_numbers_are_no_damage(tmp_path):
    model = random_model()
    with torch.no_grad():
        model.final_norm.weight.fill_(3e38)  # whose sum is not finite
    assert same(read(write(tmp_path, model)), model)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, form, share):
    write(tmp_path, random_model(), form=form)
    torn = max(tmp_path.glob("*model*[ns]"), key=lambda path: path.stat().st_size * (path.suffix != ".json"))
    content = torn.read_bytes()
    torn.write_bytes(content[: int(len(content) * share)])
    refuses(tmp_path, torn.name)


class Bomb:
    """A pickle that makes a folder when it is read as pickles are."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
def test_a_pickle_bomb_does_not_go_off(tmp_path, zipped, hidden):
    crater = tmp_path / "crater"
    bomb = {**theirs(random_model()), "transformer.wte.weight": Bomb(crater)} if hidden else Bomb(crater)
    folder = write(tmp_path / "model", random_model())
    (folder / "model.safetensors").unlink()
    torch.save(bomb, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    refuses(folder, "pytorch_model.bin", "mkdir", "Nothing of it was executed")
    assert not crater.exists()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(bomb))  # not even wrapped by torch
    refuses(folder, "pytorch_model.bin")
    assert not crater.exists()


def test_a_training_programs_file_is_refused(tmp_path):
    folder = write(tmp_path, random_model(), {"model": theirs(random_model()), "step": 3}, "bin")
    refuses(folder, "pytorch_model.bin", "'model' is a dict")
    torch.save([1, 2], folder / "pytorch_model.bin")
    refuses(folder, "holds a list")


def test_an_index_that_disagrees_with_its_files_is_refused(tmp_path):
    model = random_model()
    folder = write(tmp_path, model, form="sharded")
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    norm = "transformer.ln_f.bias"
    first, second = sorted(set(good.values()))[:2]
    for places, words in [
        ({**good, norm: "../elsewhere.safetensors"}, ["elsewhere", "not in its own folder"]),
        ({**good, norm: "model-9.safetensors"}, ["model-9.safetensors", "missing"]),
        ({**good, norm: second if good[norm] == first else first}, [norm]),
        ({name: place for name, place in good.items() if name != norm}, [norm, "does not name it"]),
        ({**good, "transformer.h.0.more": first}, ["h.0.more", "does not hold it"]),
    ]:
        write_index(index, places)
        refuses(folder, *words)
    index.write_text('{"weight_map": 3}', encoding="utf-8")
    refuses(folder, "weight_map")
    index.write_text("{", encoding="utf-8")
    refuses(folder, "index.json")


def test_a_folder_without_weights_says_so(tmp_path):
    folder = write(tmp_path, random_model())
    (folder / "model.safetensors").unlink()
    refuses(folder, "weights in none of the forms", "model.safetensors", "pytorch_model.bin")


def test_a_safetensors_file_of_another_format_is_refused(tmp_path):
    folder = write(tmp_path, random_model())
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    refuses(folder, "missing", "; there is a of shape (2,)")
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    refuses(folder, "model.safetensors")


# The tokenizer


def test_a_folder_without_tokenizer_gets_gpt2s_only_at_gpt2s_size(tmp_path):
    small = hf_folder.open_folder(write(tmp_path, random_model()))
    with pytest.raises(CheckpointError, match=re.escape("vocab.json and merges.txt (or tokenizer.json) are missing")):
        small.load_tokenizer()
    edit_json(tmp_path / "config.json", vocab_size=50257)
    assert hf_folder.open_folder(tmp_path).load_tokenizer().vocab_size == 50257


def test_a_tokenizer_of_its_own_is_used_and_must_fit(tmp_path):
    folder = write(tmp_path, random_model())
    own = train_bpe(["the cat sat on the mat"], 270)
    own.save(folder)
    found = hf_folder.open_folder(folder).load_tokenizer()
    assert found.fingerprint == own.fingerprint
    edit_json(folder / "config.json", vocab_size=own.vocab_size - 1)
    with pytest.raises(CheckpointError, match="do not belong together"):
        hf_folder.open_folder(folder).load_tokenizer()


@pytest.mark.parametrize("single", [False, True])
def test_another_tokenizer_than_was_exported_is_refused(tmp_path, single):
    own, other = (train_bpe([text], 270) for text in ("the cat sat on the mat", "a dog ran to a log"))
    export_folder(tmp_path / "m", random_model(GPTConfig(270, 16, 1, 1, 8)), own)
    kept = ("tokenizer.json",) if single else ("vocab.json", "merges.txt")
    export_folder(tmp_path / "other", random_model(GPTConfig(270, 16, 1, 1, 8)), other)
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (tmp_path / "m" / name).unlink()
    around = ("config.json", "generation_config.json", "tokenizer_config.json")
    for name in (*kept, *around):
        (tmp_path / "m" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(CheckpointError, match="not the one that its model was exported with"):
        hf_folder.open_folder(tmp_path / "m").load_tokenizer()
    for name in ("tokenizer.json", *around[1:]):
        (tmp_path / "m" / name).unlink(missing_ok=True)
    own.save(tmp_path / "m")
    assert hf_folder.open_folder(tmp_path / "m").load_tokenizer().fingerprint == own.fingerprint


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.json"])
def test_another_tokenizer_than_was_pulled_is_refused(tmp_path, name):
    folder = write(tmp_path, random_model())
    own = train_bpe(["the cat sat on the mat"], 270)
    own.save(folder)
    (folder / "tokenizer.json").write_text(tokenizer_files(own, {})["tokenizer.json"], encoding="utf-8")
    described = {path.name: storage.describe(path) for path in folder.iterdir()}
    storage.write_json(folder / "origin.json", {"repository": "acme/tiny", "files": described})
    assert hf_folder.open_folder(folder).load_tokenizer().fingerprint == own.fingerprint
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match=f"{name} is not the tokenizer that was pulled with its model"):
        hf_folder.open_folder(folder).load_tokenizer()
    storage.write_json(folder / "origin.json", {"files": {name: 3}})  # says nothing of use
    assert hf_folder.open_folder(folder).load_tokenizer().fingerprint == own.fingerprint
