"""Models with tokenizers of their own: logits equal to transformers', and texts that end where `generate` ends."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import handloom
from handloom.errors import DataError
from handloom.inference.generation_config import GenerationConfig
from handloom.inspection.verify import verify
from hf_tokenizers import FOLDERS, write_json

ROWS = 8
TEXT = "The cat's loom, мир abc <|im_end|></s><pad>"


def write(folder, made, rows_more=0, **config):
    """A folder as transformers saves it: a random model, and the tokenizer's files as they were."""
    folder.mkdir()
    made(folder)
    write_json(folder, "config.json", model_type="gpt2")
    size = len(AutoTokenizer.from_pretrained(folder)) + rows_more
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": None} | config
    model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=64, n_embd=16, n_layer=2, n_head=2, **ids))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() == 2 else 1)
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", FOLDERS)
def test_a_model_with_a_tokenizer_of_its_own_has_the_same_ids_and_logits(name, tmp_path):
    model = write(tmp_path / "m", FOLDERS[name], rows_more=3)
    lm, theirs = handloom.load(tmp_path / "m"), AutoTokenizer.from_pretrained(tmp_path / "m")
    ids = lm.prompt_ids(TEXT)
    assert ids == theirs.encode(TEXT, split_special_tokens=True)
    with torch.no_grad():
        torch.testing.assert_close(lm.model(torch.tensor([ids])), model(torch.tensor([ids])).logits)


def likeliest(model, prompt, n):
    """The first n tokens that greedy writing gives."""
    found = model.generate(torch.tensor([prompt]), max_new_tokens=n, do_sample=False, eos_token_id=-1, pad_token_id=0)
    return found[0, len(prompt) :].tolist()


@pytest.mark.parametrize("place", ["config.json", "generation_config.json", "tokenizer_config.json", "a list"])
def test_writing_ends_where_transformers_ends(place, tmp_path):
    """Whatever file names the end: an added token beyond the vocabulary included."""
    folder = tmp_path / "m"
    model = write(folder, FOLDERS["added_decoder"])
    theirs = AutoTokenizer.from_pretrained(folder)
    end = theirs.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():  # after some tokens the likeliest one is the end
        prompt = theirs.encode("The cat")
        others = likeliest(model, prompt, 12)
        model.transformer.wte.weight[[end, others[5]]] = model.transformer.wte.weight[[others[5], end]]
    model.save_pretrained(folder)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    if place != "tokenizer_config.json":
        write_json(folder, "tokenizer_config.json", **tokenizer | {"eos_token": "<|endoftext|>"})
    ends = [1, end] if place == "a list" else end
    for name in ("config.json", "generation_config.json"):
        said = json.loads((folder / name).read_text("utf-8"))
        named = place == name or (place == "a list" and name.startswith("generation"))
        write_json(folder, name, **said | {"eos_token_id": ends if named else None})
    if place == "config.json":
        (folder / "generation_config.json").unlink()
    again = AutoModelForCausalLM.from_pretrained(folder)
    how = {"eos_token_id": theirs.eos_token_id} if place == "tokenizer_config.json" else {}
    found = again.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0, **how)
    lm = handloom.load(folder)
    (done,) = lm.complete("The cat", GenerationConfig.of(max_new_tokens=20, temperature=0)).completions
    assert list(done.ids) == found[0, len(prompt) :].tolist()
    assert (done.ids[-1], done.finish_reason) == (end, "stop")
    assert "<|im_end|>" not in done.text
    assert end in lm.tokenizer.eos_token_ids


def test_the_least_and_the_forced_end_know_every_end(tmp_path):
    write(tmp_path / "m", FOLDERS["added_decoder"], eos_token_id=[0, 1, 5])
    lm = handloom.load(tmp_path / "m")
    assert set(lm.tokenizer.eos_token_ids) == {0, 1, 5, lm.tokenizer.encode("<|im_end|>", special=True)[0]}
    (done,) = lm.complete("a", GenerationConfig.of(max_new_tokens=9, min_new_tokens=9, temperature=5)).completions
    assert not set(done.ids[:8]) & set(lm.tokenizer.eos_token_ids)
    (done,) = lm.complete("a", GenerationConfig.of(max_new_tokens=1, forced_eos=True, temperature=5)).completions
    assert done.ids[0] in lm.tokenizer.eos_token_ids


def test_added_tokens_are_drawn_and_ids_beyond_them_are_not(tmp_path):
    write(tmp_path / "m", FOLDERS["added_decoder"], rows_more=200)
    lm = handloom.load(tmp_path / "m")
    drawn = set()
    for seed in range(40):
        request = GenerationConfig.of(max_new_tokens=40, temperature=1e6, seed=seed, min_new_tokens=40)
        drawn |= set(lm.complete("a", request).completions[0].ids)
    start = lm.tokenizer.encode("<|im_start|>", special=True)[0]
    assert start in drawn
    assert max(drawn) < lm.tokenizer.vocab_size < lm.config.vocab_size


def test_a_padding_token_that_was_added_without_a_row_is_left_out(tmp_path):
    folder = tmp_path / "m"
    write(folder, FOLDERS["codeparrot"])
    ours = handloom.load(folder).tokenizer
    decoder = {str(ours.vocab_size): {"content": "[PAD]", "special": True}}
    write_json(folder, "tokenizer_config.json", pad_token="[PAD]", added_tokens_decoder=decoder)
    lm = handloom.load(folder)
    assert lm.tokenizer.vocab_size == lm.config.vocab_size
    assert lm.generate("The [PAD]", max_new_tokens=3)
    write_json(folder, "tokenizer_config.json", eos_token="[PAD]", added_tokens_decoder=decoder)
    with pytest.raises(DataError, match=r"has the id \d+, and the model has no row for it"):
        handloom.load(folder)


def test_a_model_without_a_tokenizer_is_read_with_gpt2s_and_that_is_said(tmp_path):
    notes = []
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=2, n_layer=1, n_head=1, n_positions=8)).save_pretrained(tmp_path)
    lm = handloom.load(tmp_path, notes.append)
    assert lm.prompt_ids("Hello world") == [15496, 995]
    assert notes == [f"{tmp_path} comes without a tokenizer of any kind; GPT-2's is used."]
    for name in ("vocab.txt", "spiece.model", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
        with pytest.raises(handloom.HandloomError, match=f"contains no tokenizer that Handloom reads.*there is {name}"):
            handloom.load(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["rugpt3", "added", "prefix_space", "unknown_bytes"])
def test_verify_holds_ids_and_ends_against_transformers(name, tmp_path):
    write(tmp_path / "m", FOLDERS[name])
    done = {check.name: check for check in verify(handloom.load(tmp_path / "m"))}
    assert {check.name: check.detail for check in done.values() if check.passed is False} == {}
    assert done["ids = transformers"].passed is True


@pytest.mark.parametrize(
    ("file", "said", "detail"),
    [
        ("tokenizer_config.json", {"add_prefix_space": True}, "has the ids"),
        ("generation_config.json", {"eos_token_id": 7}, "transformers ends a text at 7"),
        ("special_tokens_map.json", {"mask_token": "c"}, "with special tokens has the ids"),
    ],
)
def test_verify_finds_a_tokenizer_that_is_not_the_folders(file, said, detail, tmp_path):
    """The folder says something else than what was read: a comparison with our own reading would not see it."""
    write(tmp_path / "m", FOLDERS["codeparrot"])
    lm = handloom.load(tmp_path / "m")
    (tmp_path / "m" / "tokenizer_config.json").unlink()
    write_json(tmp_path / "m", file, **said)
    (found,) = [check for check in verify(lm) if check.name == "ids = transformers"]
    assert found.passed is False
    assert detail in found.detail
