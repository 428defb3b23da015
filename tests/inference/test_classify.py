"""The label of a text is the one of its own last token, whatever is read beside it."""

from __future__ import annotations

import pytest
import torch
from stand_ins import lively

from handloom.errors import ModelError, RequestError
from handloom.inference.classify import classify
from handloom.inference.language_model import LanguageModel
from handloom.model.surgery import add_classification_head

LABELS = ("ham", "spam", "eggs")
TEXTS = ["a", "Buy now", "Café!", "abc " * 5, "Hello there"]


@pytest.fixture(scope="module")
def judge(byte_tokenizer):
    model = lively()
    add_classification_head(model, LABELS, 0)
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    return LanguageModel(model, byte_tokenizer)


def test_probabilities_are_the_softmax_of_the_scores(judge):
    for text in TEXTS:
        hidden = judge.model.hidden(torch.tensor([judge.tokenizer.encode(text)]))[0, -1]
        wanted = judge.model.classifier(hidden).softmax(-1).tolist()
        found = judge.classify(text)
        assert list(found.probabilities) == list(LABELS)
        assert list(found.probabilities.values()) == pytest.approx(wanted, rel=1e-5)
        assert found.label == LABELS[max(range(3), key=wanted.__getitem__)]
        assert found.probability == max(found.probabilities.values())


@pytest.mark.parametrize("size", [1, 2, 16])
def test_texts_side_by_side_are_judged_as_if_alone(judge, size):
    found = classify(judge.model, judge.tokenizer, TEXTS, batch_size=size)
    for text, each in zip(TEXTS, found, strict=True):
        assert each.probabilities == pytest.approx(judge.classify(text).probabilities, rel=1e-5)
    assert len({each.label for each in found}) > 1


def test_a_text_that_is_too_long_is_refused_or_cut_as_in_training(judge):
    text = "abcdefgh" * 4
    with pytest.raises(RequestError, match="The text has 32 tokens, and the model's context is 24"):
        judge.classify(text)
    assert judge.classify(text, "truncate") == judge.classify(text[:24])


def test_what_cannot_be_classified_is_refused(judge, lm):
    for text in ("", " \n"):
        with pytest.raises(RequestError, match="The text is empty"):
            judge.classify(text)
    with pytest.raises(RequestError, match="Text 2 is empty"):
        classify(judge.model, judge.tokenizer, ["a", ""])
    with pytest.raises(RequestError, match="lone surrogate"):
        judge.classify("\ud800")
    with pytest.raises(RequestError, match="overlong is 'skip'"):
        judge.classify("a", "skip")
    with pytest.raises(ModelError, match="The model does not have a classification head"):
        lm.classify("a")
