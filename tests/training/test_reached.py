"""What learns is reached by the loss: a head for labels not by that of text, one for tokens not by that of labels."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from handloom.checkpoints import native
from handloom.errors import ConfigError
from handloom.finetuning import lora, trainable
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.surgery import untie_embeddings
from handloom.training import run
from handloom.training.config import FinetuneConfig, TrainConfig
from handloom.training.optimizer import Muon, Optimizer
from handloom.training.progress import Reporter


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, corpus_folder):
    """A run that tells labels apart, with the texts it learned from."""
    folder = tmp_path_factory.mktemp("classifier")
    labelled = folder / "labelled.jsonl"
    lines = [{"text": f"{'red' if i % 2 else 'blue'} thread {i}", "label": ("b", "r")[i % 2]} for i in range(30)]
    labelled.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    small = {"steps": 1, "batch_size": 4, "precision": "fp32", "threads": 1, "sample_every": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDLOOM_CACHE", str(folder / "cache"))
        run.begin(
            folder / "base",
            TrainConfig(
                data=(str(corpus_folder),), vocab_size=300, layers=2, heads=2, embed_dim=16, context_length=16, **small
            ),
        )
        config = FinetuneConfig(
            data=(str(labelled),), model=str(folder / "base"), task="classify", rank=2, untie_embeddings=True,
            method="full", **small,
        )  # fmt: skip
        run.begin(folder / "labels", config)
    return folder / "labels"


@pytest.fixture
def tune(classifier, corpus_folder):
    def make(**changes):
        settings = {
            "data": (str(corpus_folder),), "model": str(classifier), "context_length": 16, "steps": 2, "batch_size": 4,
            "precision": "fp32", "threads": 1, "rank": 2, "sample_every": 0,
        }  # fmt: skip
        if changes.get("task") == "classify":
            settings["data"] = (str(classifier.parent / "labelled.jsonl"),)
        return FinetuneConfig(**{**settings, **changes})

    return make


class Listener(Reporter):
    def __init__(self):
        self.told = ""

    def warning(self, text):
        self.told += text


def weights(folder):
    return load_file(native.latest(folder)[0].folder / "model.safetensors")


@pytest.mark.parametrize("method", ["full", "head", "norms", "norms+head", "bias", "last:1"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_classifier_learns_text_with_every_method(tmp_path, tune, classifier, method, optimizer):
    listener, folder = Listener(), tmp_path / "run"
    summary = run.begin(folder, tune(method=method, optimizer=optimizer), listener)
    assert summary["finished"]
    before, after = weights(classifier), weights(folder)
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert ("classifier.weight" in listener.told) == (method == "full")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_classifier_learns_text_with_lora_and_goes_on_to_the_same_bits(tmp_path, tune, optimizer):
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    run.begin(straight, tune(optimizer=optimizer))
    run.begin(halted, tune(optimizer=optimizer), stop_after=1)
    run.resume(halted)
    both = [native.latest(folder)[0].folder for folder in (straight, halted)]
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert len({(folder / name).read_bytes() for folder in both}) == 1


def test_labels_do_not_reach_the_head_for_tokens(tmp_path, tune, classifier):
    """The other way round: this head has weights of its own, and no label depends on them."""
    listener, folder = Listener(), tmp_path / "run"
    run.begin(folder, tune(task="classify", method="full", optimizer="muon"), listener)
    before, after = weights(classifier), weights(folder)
    assert torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert "does not depend on lm_head.weight" in listener.told


@pytest.mark.parametrize(
    ("task", "pattern", "named"),
    [("text", "classifier.*", "classifier.weight"), ("classify", "lm_head.weight", "lm_head.weight")],
)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_patterns_of_what_no_loss_reaches_are_refused(tmp_path, tune, task, pattern, named, optimizer):
    with pytest.raises(ConfigError, match=f"task {task} does not depend on {named}"):
        run.begin(tmp_path / "run", tune(task=task, train_params=(pattern,), optimizer=optimizer))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_muon_takes_matrices_inside_the_blocks_and_nothing_else():
    """Not heads, embeddings, rows for tokens, or lengths of rows; a detour's two matrices are inside."""
    model = GPT(GPTConfig(vocab_size=50, context_length=8, layers=2, heads=2, embed_dim=8, label_names=("a", "b")))
    untie_embeddings(model)
    lora.add_adapter(model, lora.LoRAConfig(r=2, use_dora=True), 0, tokens=torch.tensor([1, 5]))
    trainable.set_trainable(model, ("*",))
    optimizer = Optimizer(model, "muon", 1e-2, 0.1, (0.9, 0.95))
    muon = next(part for part in optimizer.parts if isinstance(part, Muon))
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    by_muon = {name for name, p in named.items() if id(p) in taken}
    assert by_muon == {n for n in named if n.endswith((".lora_A", ".lora_B", ".base.weight")) and "blocks" in n}
    left = set(named) - by_muon
    for kind in ("classifier.weight", "lm_head.weight", "token_deltas", "position_embedding.weight", "magnitude"):
        assert any(kind in name for name in left), kind
