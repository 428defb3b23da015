"""Scores of labels are what transformers computes, their figures what scikit-learn computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torch.nn import functional as F

from handloom.checkpoints.hf_folder import to_hf
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.surgery import add_classification_head
from handloom.training.task_objectives import Classification, confusion, confusion_metrics
from handloom.training.tasks import texts_batch

NAMES = ("ham", "spam", "eggs")


@pytest.fixture(scope="module")
def model():
    model = GPT(GPTConfig(50, context_length=16, layers=2, heads=2, embed_dim=16), 0).eval()
    add_classification_head(model, NAMES, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def texts(number, seed=0):
    """Random texts of lengths 1 to 16, the id of the padding among their tokens, with random labels."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 17, (number,), generator=random).tolist()
    return [
        (torch.randint(0, 50, (length,), generator=random).tolist(), int(torch.randint(0, 3, (), generator=random)))
        for length in lengths
    ]


def task(*batches):
    return Classification(lambda step: batches[step], 1.0, batches, "key", names=NAMES)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_figures_are_those_of_scikit_learn(pairs):
    labels, chosen = (list(column) for column in zip(*pairs, strict=True))
    table = confusion(torch.tensor(labels), torch.tensor(chosen), 3)
    figures, details = confusion_metrics(table, NAMES)
    assert details["confusion"] == metrics.confusion_matrix(labels, chosen, labels=[0, 1, 2]).tolist()
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(labels, chosen))
    of_labels = metrics.precision_recall_fscore_support(labels, chosen, labels=[0, 1, 2], zero_division=0)
    assert figures["f1"] == pytest.approx(of_labels[2].mean())
    for name, *theirs in zip(NAMES, *of_labels, strict=True):
        assert list(details["labels"][name].values()) == pytest.approx(theirs, abs=1e-6)


def test_a_text_is_judged_by_its_own_last_token_however_long_the_others_are(model):
    several = texts(12)
    together = task().logits(model, texts_batch(several))
    for row, text in zip(together, several, strict=True):
        alone = task().logits(model, texts_batch([text]))[0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)
        reference = model.classifier(model.hidden(torch.tensor([text[0]]))[0, -1])
        torch.testing.assert_close(alone, reference, atol=1e-5, rtol=1e-5)


def test_transformers_gives_the_same_scores(model):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0)
    theirs = GPT2ForSequenceClassification(config).eval()
    weights = {name: tensor for name, tensor in to_hf(model).items() if name != "lm_head.weight"}
    theirs.load_state_dict({**weights, "score.weight": model.classifier.weight})
    for ids, label in texts(6, seed=1):
        ids = [token or 1 for token in ids]  # theirs finds the last token by looking for padding
        with torch.no_grad():
            wanted = theirs(torch.tensor([ids])).logits[0]
            found = task().logits(model, texts_batch([(ids, label)]))[0]
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_loss_and_examination_are_over_all_texts(model):
    several = texts(20, seed=2)
    found = task(texts_batch(several[:9]), texts_batch(several[9:])).evaluate(model)
    batch = texts_batch(several)
    scores = task().logits(model, batch)
    assert found.loss == pytest.approx(F.cross_entropy(scores, batch["labels"]).item(), rel=1e-5)
    assert task().loss(model, batch).item() == pytest.approx(20 * found.loss, rel=1e-5)
    assert task().num_targets(batch) == 20
    right = (scores.argmax(-1) == batch["labels"]).double().mean()
    assert found.metrics["accuracy"] == pytest.approx(float(right))
    assert sum(map(sum, found.details["confusion"])) == 20
