"""What learns: each method by name, tied weights told as they are, and a ledger that adds up."""

from __future__ import annotations

import pytest
import torch

from handloom.errors import ConfigError
from handloom.finetuning import trainable
from handloom.finetuning.lora import LoRAConfig
from handloom.finetuning.memory_estimate import MicroBatch, estimate_memory
from handloom.model.config import GPTConfig, preset
from handloom.model.gpt import GPT
from handloom.model.surgery import untie_embeddings

CONFIG = GPTConfig(vocab_size=60, context_length=12, layers=3, heads=2, embed_dim=16)
SMALL = MicroBatch(2, 12, bf16=False)


def learns(method, config=CONFIG, untie=False):
    model = GPT(config)
    if untie:
        untie_embeddings(model)
    trainable.set_trainable(model, trainable.patterns_of(method, model.config))
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_each_method_trains_what_its_name_says():
    everything = {name for name, _ in GPT(CONFIG).named_parameters()}
    norms = {name for name in everything if "norm" in name}
    assert learns("full") == everything
    assert learns("norms") == norms
    assert len(norms) == 2 * (2 * 3 + 1)
    assert learns("bias") == {name for name in everything if name.endswith(".bias")}
    last = {name for name in everything if name.startswith(("blocks.1.", "blocks.2.", "final_norm."))}
    assert learns("last:2") == last


def test_a_tied_head_is_the_token_embedding_and_an_untied_one_is_not():
    assert learns("head") == {"embedding.token_embedding.weight"}
    assert learns("norms+head") == learns("norms") | {"embedding.token_embedding.weight"}
    assert learns("head", untie=True) == {"lm_head.weight"}
    assert learns("norms+head", untie=True) == learns("norms") | {"lm_head.weight"}


@torch.no_grad()
def test_an_untied_head_says_the_same_until_it_learns():
    model, ids = GPT(CONFIG), torch.arange(12)[None]
    before = model(ids)
    untie_embeddings(model)
    untie_embeddings(model)  # a second time changes nothing
    assert model(ids).equal(before)
    assert not model.config.tie_embeddings
    model.lm_head.weight.add_(1.0)
    assert not model.embedding.token_embedding.weight.equal(model.lm_head.weight)


def test_the_share_of_a_tied_head_in_gpt2_is_told():
    """The original project's "LayerNorms and head": 31 % of a 124M model, or 0.03 % if the head is forgotten."""
    ledger = estimate_memory(preset("gpt2"), "norms+head", LoRAConfig(), MicroBatch(1, 128, bf16=True))
    by_name = {entry.method: entry for entry in ledger.entries}
    assert by_name["norms+head"].cost.share == pytest.approx(0.31, abs=0.005)
    assert by_name["norms"].cost.share == pytest.approx(0.0003, abs=0.00005)
    assert "the head is tied to it (31% of the model)" in by_name["norms+head"].remark
    assert not by_name["norms"].remark
    assert not by_name["full"].remark
    assert ledger.chosen.method == "norms+head"
    assert sum(numbers for _, _, numbers in ledger.groups) == ledger.chosen.cost.parameters
    assert any("output head too" in name for name, _, _ in ledger.groups)
    untied = estimate_memory(preset("gpt2"), "norms+head", LoRAConfig(), MicroBatch(1, 128, bf16=True), untie=True)
    assert not any(entry.remark for entry in untied.entries)


def test_the_ledger_counts_what_a_model_really_trains():
    ledger = estimate_memory(CONFIG, "last:1", LoRAConfig(r=2), SMALL)
    for entry in ledger.entries:
        if entry.method == "lora":
            C, F, r = 16, 64, 2
            assert entry.cost.parameters == 3 * r * ((C + 3 * C) + (C + C) + (C + F) + (F + C))
            continue
        model = GPT(CONFIG)
        trainable.set_trainable(model, trainable.patterns_of(entry.method, CONFIG))
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert entry.cost.parameters == count
        assert entry.cost.gradient_bytes == 4 * count
        assert entry.cost.optimizer_bytes == 8 * count
    full, last = (next(e for e in ledger.entries if e.method == m) for m in ("full", "last:1"))
    assert last.peak_bytes < full.peak_bytes


def test_a_head_for_labels_learns_with_every_method():
    labelled = GPTConfig(vocab_size=60, context_length=12, layers=3, heads=2, embed_dim=16, label_names=("ham", "spam"))
    for method in ("norms", "bias", "last:1", "head", "norms+head"):
        assert "classifier.weight" in learns(method, labelled)
    assert learns("head", labelled) == {"classifier.weight"}


def test_patterns_choose_freely_and_a_wrong_one_is_named():
    model = GPT(CONFIG)
    trainable.set_trainable(model, ("blocks.0.*.bias", "final_norm.weight"))
    chosen = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "final_norm.weight" in chosen
    assert "blocks.0.attention.qkv.bias" in chosen
    assert all(name.startswith("blocks.0.") or name == "final_norm.weight" for name in chosen)
    trainable.require_fits(model, ("blocks.0.*",))
    with pytest.raises(ConfigError, match=r"'final_norm\.wieght' fits no parameter .* Did you mean"):
        trainable.require_fits(model, ("final_norm.wieght",))
    with pytest.raises(ConfigError, match="last:4 trains 4 blocks, and the model has 3"):
        trainable.patterns_of("last:4", CONFIG)


@pytest.mark.parametrize(
    ("patterns", "lowest"),
    [
        (("*",), None),
        (("embedding.position_embedding.*",), None),
        (("blocks.0.*",), 0),
        (("blocks.2.attention.qkv.bias", "final_norm.*"), 2),
        (("final_norm.*",), 3),
    ],
)
def test_the_lowest_block_that_learns(patterns, lowest):
    model = GPT(CONFIG)
    trainable.set_trainable(model, patterns)
    assert trainable.first_trainable_layer(model) == lowest


def test_the_peak_that_is_told_is_what_was_measured():
    """At 124M, in MB: the peaks of real runs (docs/LOG.md), within a tenth."""
    everywhere, attention = LoRAConfig(), LoRAConfig(r=16, target_modules=("blocks.*.attention.qkv",))
    for method, rows, tokens, bf16, how, measured in (
        ("full", 4, 256, True, everywhere, 3802),
        ("lora", 4, 256, True, everywhere, 1688),
        ("lora", 4, 256, True, attention, 1579),
        ("norms", 4, 256, True, everywhere, 1857),
        ("last:2", 4, 256, True, everywhere, 1538),
        ("lora", 2, 1024, True, everywhere, 2119),
        ("lora", 4, 1024, True, everywhere, 3162),
        ("full", 2, 1024, True, everywhere, 4174),
        ("full", 4, 256, False, everywhere, 3600),
        ("lora", 4, 256, False, everywhere, 2074),
    ):
        told = estimate_memory(preset("gpt2"), method, how, MicroBatch(rows, tokens, bf16)).chosen.peak_bytes
        assert told / 1e6 == pytest.approx(measured, rel=0.1), method


def test_the_estimate_has_the_memory_that_is_kept():
    """At 124M, in MB: peaks with freed memory kept (`python benchmarks/train.py`), within a tenth."""
    for bf16, measured in ((True, 3763), (False, 3958)):
        at_once = MicroBatch(4, 256, bf16, kept=True)
        peak = estimate_memory(preset("gpt2"), "full", LoRAConfig(), at_once).chosen.peak_bytes
        assert peak / 1e6 == pytest.approx(measured, rel=0.1)


def test_the_estimate_has_less_with_gradient_checkpointing():
    peaks = [
        estimate_memory(preset("gpt2"), "full", LoRAConfig(), MicroBatch(16, 256, True, checkpointing=use)).chosen
        for use in (False, True)
    ]
    assert peaks[1].peak_bytes < 0.6 * peaks[0].peak_bytes
