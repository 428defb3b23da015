"""What a classifier's scores mean: for each problem type the numbers that transformers' own pipeline gives."""

from __future__ import annotations

import json

import pytest
import torch
from published import edit_json
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from handloom.checkpoints import hf_folder
from handloom.checkpoints.hf_export import export_folder
from handloom.cli.main import main
from handloom.errors import CheckpointError, ModelError
from handloom.inference.classify import classify
from handloom.loading import load
from handloom.model.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL, GPTConfig
from handloom.model.gpt import GPT
from handloom.model.surgery import add_classification_head
from handloom.tokenizer.train import train_bpe

TEXTS = ["the fox", "a quick brown dog", "x"]
NAMES = ("toxic", "insult", "threat")


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["the quick brown fox"] * 5, 280)


def folder_of(target, tokenizer, labels, problem_type):
    """A classifier in a Hugging Face folder, whose scores are far from each other."""
    config = GPTConfig(vocab_size=280, context_length=24, layers=1, heads=2, embed_dim=16)
    model = GPT(config, seed=1).eval()
    add_classification_head(model, labels, seed=2)
    with torch.no_grad():
        model.classifier.weight.mul_(40)
    export_folder(target, model, tokenizer)
    edit_json(target / "config.json", problem_type=problem_type)
    return target


@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [
        (NAMES, SINGLE_LABEL),
        (NAMES, MULTI_LABEL),
        (NAMES, REGRESSION),
        (NAMES, None),
        (("quality",), REGRESSION),
        (("quality",), None),  # a softmax over one score would always be 1
    ],
)
def test_values_are_those_of_the_pipeline(tmp_path, tokenizer, labels, problem_type):
    folder = folder_of(tmp_path / "hf", tokenizer, labels, problem_type)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    wanted = pipeline(
        "text-classification", model=theirs, tokenizer=AutoTokenizer.from_pretrained(folder), top_k=None, device="cpu"
    )(TEXTS)
    stored = hf_folder.open_folder(folder)
    found = classify(stored.load_model(), stored.load_tokenizer(), TEXTS)
    for each, rows in zip(found, wanted, strict=True):
        assert each.values == pytest.approx({row["label"]: row["score"] for row in rows}, abs=1e-5)
    if problem_type == REGRESSION:
        assert all(each.probabilities == {} and each.label is None and each.labels == () for each in found)
    elif problem_type == MULTI_LABEL:
        for each in found:
            assert each.labels == tuple(name for name in labels if each.values[name] >= 0.5)
        assert len({each.labels for each in found}) > 1 or all(len(each.labels) != 1 for each in found)


def test_the_command_says_what_the_numbers_are(tmp_path, tokenizer, capsys):
    def said(problem_type, *words):
        folder = folder_of(tmp_path / problem_type, tokenizer, NAMES, problem_type)
        with pytest.raises(SystemExit) as left:
            main(["classify", *words, "--model", str(folder), "--threads", "1"])
        assert left.value.code == 0
        return capsys.readouterr().out, load(folder).classify("the fox")

    out, found = said(REGRESSION, "the fox")
    assert [line.split() for line in out.splitlines()] == [[n, f"{v:.4f}"] for n, v in found.values.items()]
    out, found = said(MULTI_LABEL, "the fox", "--json")
    wanted = {"text": "the fox", "labels": list(found.labels), "probabilities": found.values, "precision": "fp32"}
    assert json.loads(out) == wanted
    (tmp_path / "texts.txt").write_text("the fox\nx\n", encoding="utf-8")
    out, found = said(SINGLE_LABEL, "--texts", str(tmp_path / "texts.txt"))
    assert out.splitlines()[0].split() == [found.label, f"{found.probability:.1%}", "the", "fox"]


def test_a_text_of_several_labels_may_have_none_and_a_line_says_so(tmp_path, tokenizer, capsys):
    folder = folder_of(tmp_path / "hf", tokenizer, NAMES, MULTI_LABEL)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["classify", "--texts", str(tmp_path / "texts.txt"), "--model", str(folder), "--threads", "1"])
    lm = load(folder)
    for line, text in zip(capsys.readouterr().out.splitlines(), TEXTS, strict=True):
        labels = lm.classify(text).labels
        assert all((name in line) == (name in labels) for name in NAMES)
        assert ("no label" in line) == (not labels)


@pytest.mark.parametrize(("labels", "problem_type"), [(NAMES, MULTI_LABEL), (NAMES, REGRESSION), (("quality",), None)])
def test_the_problem_type_goes_out_and_comes_back(tmp_path, tokenizer, labels, problem_type):
    folder = folder_of(tmp_path / "hf", tokenizer, labels, problem_type)
    stored = hf_folder.open_folder(folder)
    export_folder(tmp_path / "again", stored.load_model(), stored.load_tokenizer())
    assert hf_folder.open_folder(tmp_path / "again").config == stored.config
    does = {MULTI_LABEL: "any number of these labels", REGRESSION: "predicts values", None: "one of these labels"}
    assert does[problem_type] in (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").config.problem_type == problem_type


def test_a_problem_type_that_is_none_is_refused(tmp_path, tokenizer):
    folder = folder_of(tmp_path / "hf", tokenizer, NAMES, "ranking")
    with pytest.raises(CheckpointError, match="problem_type is 'ranking'; Handloom has single_label"):
        hf_folder.open_folder(folder)


def test_labels_that_are_only_counted_have_the_names_that_transformers_gives(tmp_path, tokenizer):
    folder = folder_of(tmp_path / "hf", tokenizer, NAMES, None)
    edit_json(folder / "config.json", id2label=None, label2id=None, num_labels=3)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).config.id2label
    assert hf_folder.open_folder(folder).load_model().config.label_names == tuple(theirs[i] for i in range(3))


def test_tuning_goes_on_only_where_each_text_has_one_label(tmp_path, tokenizer):
    from handloom.training.tasks import label_names

    model = hf_folder.open_folder(folder_of(tmp_path / "hf", tokenizer, NAMES, MULTI_LABEL)).load_model()
    with pytest.raises(ModelError, match="problem_type of the model is multi_label_classification"):
        label_names([], model)
