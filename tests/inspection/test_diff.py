"""Two models on one text: the first activation that differs, the element, and the token it belongs to."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from random_models import SHAPE, TEXT, random_model
from torch import nn

from handloom.errors import ConfigError, ModelError, RequestError
from handloom.inference.language_model import LanguageModel
from handloom.inspection import activations
from handloom.inspection.check import TOLERANCE
from handloom.inspection.diff import PRECISIONS, compare_models, is_precision
from handloom.loading import load
from handloom.model.gpt import GPT
from handloom.tokenizer.gpt2 import TiktokenTokenizer
from handloom.tokenizer.train import train_bpe

FOX = "The quick brown fox"


@pytest.fixture
def twin(lm):
    """The same model once more."""
    model = GPT(lm.config).eval()
    model.load_state_dict(lm.model.state_dict())
    return LanguageModel(model, lm.tokenizer)


def test_the_same_model_is_the_same(lm, twin):
    found = compare_models(lm, twin, FOX, tolerance=0.0)
    assert found.first is None
    assert found.weights == dataclasses.replace(found.weights, differing=(), lone=())
    assert found.weights.count == len(lm.model.state_dict())
    assert {difference.worst for difference in found.differences} == {0.0}
    assert "".join(found.tokens) == FOX
    assert len(found.differences) == 3 + 6 * 2


def test_a_model_and_its_export_are_the_same(lm, exported):
    found = compare_models(lm, load(exported), FOX)
    assert found.first is None
    assert found.weights.differing == ()
    assert found.same_tokenizer


@pytest.mark.parametrize(
    ("weight", "first"),
    [
        ("embedding.token_embedding.weight", "blocks.0.resid_pre"),
        ("blocks.0.attention_norm.bias", "blocks.0.attention_norm"),
        ("blocks.0.attention.qkv.weight", "blocks.0.attention.pattern"),
        ("blocks.1.attention.out.bias", "blocks.1.attention.out"),
        ("blocks.1.feedforward_norm.weight", "blocks.1.feedforward_norm"),
        ("blocks.1.feedforward.down.weight", "blocks.1.feedforward.out"),
        ("final_norm.bias", "final_norm"),
    ],
)
def test_a_changed_weight_is_named_and_where_it_first_shows(lm, twin, weight, first):
    with torch.no_grad():
        dict(twin.model.named_parameters())[weight].mul_(1.1)
    found = compare_models(lm, twin, FOX)
    assert found.weights.differing == (weight,)
    assert found.first is not None
    assert found.first.name == first
    before = found.differences[: found.differences.index(found.first)]
    assert {difference.worst for difference in before} <= {0.0}


def test_the_element_and_its_token_are_those_that_were_changed(lm, twin):
    place, channel = 5, 3
    with torch.no_grad():
        twin.model.embedding.position_embedding.weight[place, channel] += 0.25
    found = compare_models(lm, twin, FOX)
    assert found.first is not None
    assert found.first.name == "blocks.0.resid_pre"
    assert found.first.where == (0, place, channel)
    assert found.position(found.first) == place
    assert found.first.theirs - found.first.ours == pytest.approx(0.25, abs=1e-6)
    assert found.first.worst == pytest.approx(0.25, abs=1e-6)
    assert found.tokens[place] == lm.tokenizer.decode([found.ids[place]])


def test_in_attention_weights_the_token_is_the_one_that_looks(lm, twin):
    twin.model.blocks[1].attention.core.scale *= 2
    found = compare_models(lm, twin, FOX)
    assert found.first is not None
    assert found.first.name == "blocks.1.attention.pattern"
    assert found.position(found.first) == found.first.where[2]
    assert found.weights.differing == ()


def test_a_token_is_the_only_one_whose_embedding_differs(lm, twin):
    ids = lm.tokenizer.encode(FOX)
    place = 7
    assert ids.count(ids[place]) == 1
    with torch.no_grad():
        twin.model.embedding.token_embedding.weight[ids[place]] += 0.01
    found = compare_models(lm, twin, FOX)
    assert found.first is not None
    assert found.position(found.first) == place


def test_the_tolerance_is_a_share_of_the_largest_number(lm, twin):
    with torch.no_grad():
        twin.model.embedding.position_embedding.weight[2, 2] += 0.01
    first = compare_models(lm, twin, FOX).first
    assert first is not None
    share = first.worst / max(1.0, first.scale)
    later = compare_models(lm, twin, FOX, tolerance=share * 1.001).first
    assert later is None or later.name != "blocks.0.resid_pre"
    below = compare_models(lm, twin, FOX, tolerance=share * 0.999).first
    assert below is not None
    assert below.name == "blocks.0.resid_pre"
    assert compare_models(lm, twin, FOX, tolerance=1e9).first is None


def test_a_nan_is_the_first_divergence(lm, twin):
    with torch.no_grad():
        twin.model.blocks[1].feedforward.up.bias[0] = torch.nan
    found = compare_models(lm, twin, FOX, tolerance=1e9)
    assert found.first is not None
    assert found.first.name == "blocks.1.feedforward.out"


# Precisions


def test_float32_is_the_model_itself(lm):
    assert compare_models(lm, "fp32", FOX, tolerance=0.0).first is None


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-weights", torch.bfloat16), ("fp16-weights", torch.float16)])
def test_rounded_weights_are_those_of_a_file_in_that_type(lm, precision, dtype):
    """As if all had been stored in it, and read again."""
    rounded = GPT(lm.config).eval()
    rounded.load_state_dict({name: t.to(dtype).float() for name, t in lm.model.state_dict().items()})
    before = {name: t.clone() for name, t in lm.model.state_dict().items()}
    by_name = compare_models(lm, precision, FOX, tolerance=0.0)
    reference = compare_models(lm, LanguageModel(rounded, lm.tokenizer), FOX, tolerance=0.0)
    assert by_name == reference
    assert by_name.first is not None
    assert set(by_name.weights.differing) == set(lm.model.state_dict())
    assert all(activations.same_bits(t, before[name]) for name, t in lm.model.state_dict().items())


def test_bfloat16_arithmetic_is_that_of_training(lm):
    """Weights stay as they are, and what comes first in bfloat16 is attention."""
    found = compare_models(lm, "bf16", FOX, tolerance=1e-3)
    assert found.weights.differing == ()
    assert found.first is not None
    assert found.first.name == "blocks.0.attention.pattern"
    x = torch.tensor([found.ids])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = lm.model(x).float()
    with torch.no_grad():
        plain = lm.model(x)
    assert found.differences[-1].name == "logits"
    assert found.differences[-1].worst == (plain - expected).abs().max().item()


def test_an_untied_head_that_was_cut_loose_is_rounded_too(tokenizer):
    lm = LanguageModel(random_model(dataclasses.replace(SHAPE, tie_embeddings=False)), tokenizer)
    assert "lm_head.weight" in compare_models(lm, "fp16-weights", FOX).weights.differing


def test_what_looks_like_a_precision_is_one_or_is_refused(tmp_path, monkeypatch):
    assert all(map(is_precision, PRECISIONS))
    assert not any(map(is_precision, ("gpt2", "runs/demo", "./bf16", "owner/fp16", "int", "b16")))
    for name in ("fp16", "float16", "bfloat16", "bf-16", "half", "int8", "fp8-weights"):
        with pytest.raises(ConfigError, match="There are fp32, bf16, bf16-weights, fp16-weights"):
            is_precision(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fp16").mkdir()
    assert not is_precision("fp16")


# What cannot be compared, and what has to be said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embed_dim": 16, "layers": 3}, "first in layers: 2 and 3"),
        ({"embed_dim": 16}, "first in embed_dim: 8 and 16"),
        ({"heads": 1}, "first in heads: 2 and 1"),
        ({"context_length": 12}, "first in context_length: 16 and 12"),
        ({"vocab_size": 310, "context_length": 12}, "first in vocab_size: 300 and 310"),
        ({"ffn_dim": 33}, "first in ffn_dim: 32 and 33"),
    ],
)
def test_models_of_different_shapes_are_refused(lm, tokenizer, change, words):
    other = LanguageModel(random_model(dataclasses.replace(SHAPE, **change)), tokenizer)
    with pytest.raises(ModelError, match=words):
        compare_models(lm, other, FOX)


def test_an_inner_width_that_is_written_out_is_no_difference(lm, tokenizer):
    other = LanguageModel(random_model(dataclasses.replace(SHAPE, ffn_dim=32)), tokenizer)
    found = compare_models(lm, other, FOX)
    assert found.first is None
    assert found.settings == {}


def test_settings_that_differ_are_told(lm, tokenizer):
    config = dataclasses.replace(SHAPE, activation="relu", tie_embeddings=False, dropout=0.5)
    other = LanguageModel(random_model(config), tokenizer)
    found = compare_models(lm, other, FOX)
    assert found.settings == {"activation": ("gelu_tanh", "relu"), "tie_embeddings": (True, False)}
    assert found.weights.lone == ("lm_head.weight",)
    assert isinstance(other.model.lm_head, nn.Linear)
    assert found.first is not None
    assert found.first.name == "blocks.0.feedforward.out"


def test_different_tokenizers_compare_on_ids_that_both_have(lm, twin):
    other = TiktokenTokenizer(train_bpe(["entirely other words, that make other merges " * 3], 290))
    found = compare_models(lm, LanguageModel(twin.model, other), FOX)
    assert found.first is None
    assert not found.same_tokenizer
    assert found.ids == tuple(lm.tokenizer.encode(FOX))
    small = TiktokenTokenizer(train_bpe([], 257))
    with pytest.raises(RequestError, match=r"has no id \d+, which is token \d+ of the text"):
        compare_models(lm, LanguageModel(twin.model, small), FOX)
    assert compare_models(lm, LanguageModel(twin.model, small), "zzz").first is None


def test_a_text_has_to_fit_and_the_usual_one_is_cut(lm, twin):
    with pytest.raises(RequestError, match=r"The text has \d+ tokens, and the model looks at 16 at most"):
        compare_models(lm, twin, TEXT)
    with pytest.raises(RequestError, match="empty"):
        compare_models(lm, twin, "")
    assert len(compare_models(lm, twin).ids) == 16


# The summary


@pytest.mark.parametrize(("layers", "lines"), [(2, 3), (12, 13), (13, 8), (48, 13)])
def test_the_summary_is_short_however_deep_the_model(tokenizer, layers, lines):
    config = dataclasses.replace(SHAPE, layers=layers)
    one, other = (LanguageModel(random_model(config), tokenizer) for _ in range(2))
    other.model.final_norm.eps = 0.5
    found = compare_models(one, other, FOX)
    summary = found.summary()
    assert len(summary) == lines + 1
    assert [summary[0][0], summary[-1][0]] == ["blocks.0.resid_pre", "final_norm"]
    assert summary[-1][1] is found.first
    if layers == 48:
        assert [name for name, _ in summary[1:3]] == ["blocks 0 to 3", "blocks 4 to 7"]


def test_the_block_of_the_divergence_is_shown_part_by_part(tokenizer):
    config = dataclasses.replace(SHAPE, layers=4)
    one, other = (LanguageModel(random_model(config), tokenizer) for _ in range(2))
    other.model.blocks[2].attention.core.scale *= 1.5
    names = [name for name, _ in compare_models(one, other, FOX).summary()]
    assert names == [
        "blocks.0.resid_pre",
        "block 0",
        "block 1",
        "blocks.2.attention_norm",
        "blocks.2.attention.pattern",
    ]


def test_a_line_of_several_blocks_is_the_worst_of_them(lm, twin):
    with torch.no_grad():
        twin.model.blocks[0].feedforward.down.bias[3] += 1e-3
    found = compare_models(lm, twin, FOX, tolerance=1.0)
    assert found.first is None
    summary = dict(found.summary())
    inside = [d for d in found.differences if d.name.startswith("blocks.0")]
    assert summary["block 0"].worst / max(1, summary["block 0"].scale) == max(d.worst / max(1, d.scale) for d in inside)
    assert TOLERANCE < 1e-3
