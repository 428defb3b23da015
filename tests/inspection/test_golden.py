"""Golden values: what is written down is what was published, and a model that bears the name has to meet it."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import tiktoken
import torch
from safetensors.torch import load_file, save_file

from handloom.checkpoints import model_store
from handloom.inspection import golden
from handloom.inspection.check import Check
from handloom.inspection.verify import verify
from handloom.loading import load
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.base import END_OF_TEXT
from handloom.tokenizer.train import train_bpe

DOG = [464, 3290, 373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13, 198, 198, 464, 3290]
PRESIDENT = [464, 1893, 286, 262, 1578, 1829, 11, 290, 262, 1893, 286, 262, 1578, 7526, 11, 423, 587, 287, 262, 2635]
"""As the tests of transformers have them."""


@pytest.fixture(scope="module")
def gpt2():
    return load_tokenizer("gpt2")


# The table


def test_texts_have_the_ids_that_were_published(gpt2):
    texts = {value.prompt: value.whole for value in greedy_values()}
    assert gpt2.encode(texts["The dog"]) == DOG
    assert gpt2.encode(texts["The president"]) == PRESIDENT
    lengths = {prompt: len(gpt2.encode(whole)) for prompt, whole in texts.items()}
    assert lengths.pop("Today, I") == 16  # its test takes away from 20 the four places of padding
    assert set(lengths.values()) == {20}


def greedy_values():
    return [value for known in golden.PUBLISHED.values() for value in known if isinstance(value, golden.Greedy)]


def test_a_continuation_begins_with_its_prompt_in_ids_too(gpt2):
    for value in greedy_values():
        prompt = gpt2.encode(value.prompt)
        assert gpt2.encode(value.whole)[: len(prompt)] == prompt


def test_the_text_of_the_loss_is_cut_as_its_source_cuts_it(gpt2):
    """There tiktoken is given one string, with the end of text before it and behind every empty line."""
    whole = f"{END_OF_TEXT}{golden.SHAKESPEARE}".replace("\n\n", f"\n\n{END_OF_TEXT}")
    theirs = tiktoken.Encoding(
        "gpt2",
        pat_str=gpt2._encoding._pat_str,
        mergeable_ranks=gpt2._encoding._mergeable_ranks,
        special_tokens={END_OF_TEXT: 50256},
    )
    expected = theirs.encode(whole, allowed_special={END_OF_TEXT})[:257]
    found = golden.shakespeare_ids(gpt2)
    assert found == expected
    assert found[:7] == [50256, 5962, 22307, 25, 198, 8421, 356]
    assert found.count(50256) == 10
    assert len(found) == 4 * 64 + 1


def test_the_fingerprint_is_that_of_gpt2s_tokenizer(gpt2):
    assert gpt2.fingerprint == golden.GPT2_FINGERPRINT


def test_names_are_those_that_can_be_pulled():
    assert {name: model_store.PLAIN_NAMES[name] for name in golden.ALIASES} == golden.ALIASES
    assert set(golden.ALIASES.values()) == set(golden.PUBLISHED)


# Which models are held against it


@pytest.mark.parametrize(
    ("folder", "repository", "found"),
    [
        ("gpt2", None, "openai-community/gpt2"),
        ("openai-community--gpt2", None, "openai-community/gpt2"),
        ("distilgpt2", None, "distilbert/distilgpt2"),
        ("old", "gpt2", "openai-community/gpt2"),
        ("old", "openai-community/gpt2", "openai-community/gpt2"),
        ("gpt2", "acme/gpt2", None),
        ("acme--gpt2", None, None),
        ("gpt2-medium", None, None),
        ("gpt2", 3, "openai-community/gpt2"),
    ],
)
def test_a_model_is_known_by_its_repository_or_else_by_its_folder(tmp_path, folder, repository, found):
    (tmp_path / folder).mkdir()
    if repository is not None:
        origin = json.dumps({"repository": repository})
        (tmp_path / folder / "origin.json").write_text(origin, encoding="utf-8")
    assert golden.published_name(tmp_path / folder) == found
    assert golden.published_name(tmp_path / folder / "..") is None


def test_a_run_is_none_of_them(lm):
    ((passed, detail),) = (make() for _, make in golden.golden(lm))
    assert passed is None
    assert detail.startswith("weights absent: values are published for distilgpt2 and gpt2")


# A stand-in: a small random model called gpt2, and a table of what transformers computes from it


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory, gpt2):
    """Its folder, and the values."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 64}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 1.0, generator=generator)
    model.save_pretrained(folder)
    gpt2.save(folder)
    texts = (_continued(model, gpt2, prompt) for prompt in ("The dog", "The president", "Today, I", "It is", "We"))
    greedy = [golden.Greedy(prompt, whole, "a test") for prompt, whole in texts if whole is not None]
    assert len(greedy) >= 2
    ids = torch.tensor(golden.shakespeare_ids(gpt2))
    x, y = ids[:-1].view(4, 64), ids[1:].view(4, 64)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(x).logits.flatten(0, 1), y.flatten()).item()
    return folder, (*greedy, golden.Loss(loss, "a test"))


def _continued(model, gpt2, prompt):
    """The text that transformers writes, where its tokens are those of the text."""
    x = torch.tensor([gpt2.encode(prompt)])
    mask = torch.ones_like(x)
    ids = model.generate(x, attention_mask=mask, max_length=20, do_sample=False, eos_token_id=None, pad_token_id=0)[
        0
    ].tolist()
    return prompt, gpt2.decode(ids) if gpt2.encode(gpt2.decode(ids)) == ids else None


@torch.no_grad()
def checks(lm):
    return {name: Check(name, *make()) for name, make in golden.golden(lm)}


@pytest.fixture
def table(stand_in, monkeypatch):
    monkeypatch.setattr(golden, "PUBLISHED", {"openai-community/gpt2": stand_in[1]})


def test_a_sound_model_meets_its_values(stand_in, table):
    lm = load(stand_in[0])
    done = checks(lm)
    assert len(done) == 1 + len(stand_in[1])
    assert {check.passed for check in done.values()} == {True}
    assert done["golden: loss"].detail.endswith("in a test")
    everything = list(verify(lm))
    assert {check.passed for check in everything} == {True}
    assert everything[-len(done) :] == list(done.values())


def test_a_model_with_one_number_changed_does_not(stand_in, table, tmp_path):
    folder = shutil.copytree(stand_in[0], tmp_path / "gpt2")
    tensors = load_file(folder / "model.safetensors")
    weights = tensors["transformer.h.0.mlp.c_proj.bias"].clone()
    weights[3] += 30
    save_file({**tensors, "transformer.h.0.mlp.c_proj.bias": weights}, folder / "new", metadata={"format": "pt"})
    (folder / "new").replace(folder / "model.safetensors")
    done = checks(load(folder))
    assert done.pop("golden: tokenizer").passed is True
    assert {check.passed for check in done.values()} == {False}
    assert "instead of" in done["golden: text 1"].detail
    assert all("give its folder another name" in check.detail for check in done.values())


def test_any_value_that_is_another_is_seen(stand_in, table, monkeypatch):
    lm = load(stand_in[0])
    for at, value in enumerate(stand_in[1]):
        if isinstance(value, golden.Loss):
            other = dataclasses.replace(value, nats=value.nats + 2 * golden.LOSS_TOLERANCE)
        else:
            other = dataclasses.replace(value, whole=value.whole + "!")
        values = (*stand_in[1][:at], other, *stand_in[1][at + 1 :])
        monkeypatch.setattr(golden, "PUBLISHED", {"openai-community/gpt2": values})
        done = [check.passed for name, check in checks(lm).items() if name != "golden: tokenizer"]
        assert done == [number != at for number in range(len(stand_in[1]))]


def test_the_same_model_under_another_name_is_not_checked(stand_in, table, tmp_path):
    done = checks(load(shutil.copytree(stand_in[0], tmp_path / "mine")))
    assert {name: check.passed for name, check in done.items()} == {"golden values": None}


def test_another_tokenizer_fails(stand_in, table, tmp_path):
    folder = shutil.copytree(stand_in[0], tmp_path / "gpt2")
    train_bpe(["the cat sat on the mat"], 270).save(folder)
    done = checks(load(folder))
    assert len(done) == 1
    assert done["golden: tokenizer"].passed is False
    assert "not GPT-2's" in done["golden: tokenizer"].detail


def test_whatever_bears_the_name_has_to_be_it(stand_in):
    """With the real table."""
    done = {check.name: check for check in verify(load(stand_in[0]))}
    assert {name for name, check in done.items() if check.passed is False} >= {"golden: text 1", "golden: loss"}
