"""Answers are learned and nothing else; conversations in one row do not see each other; padding is nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.data.collate import encode_row, pack, stack
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.chat import Message, encode_conversation
from handloom.tokenizer.train import train_bpe
from handloom.training.task_objectives import SFT
from handloom.training.tasks import tensors

BYTES = train_bpe([], 257)
CONTEXT = 96
TURN = st.tuples(st.text("ab \n:é", min_size=1, max_size=6), st.text("ab \n:é", min_size=1, max_size=6), st.booleans())
CONVERSATIONS = st.lists(st.lists(TURN, min_size=1, max_size=2), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def model():
    model = GPT(GPTConfig(257, context_length=CONTEXT, layers=2, heads=2, embed_dim=16), 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def encoded(turns):
    messages = []
    for asked, answer, learned in turns:
        messages += [Message("user", asked), Message("assistant", answer, learned)]
    messages[-1] = Message("assistant", messages[-1].content)  # something is learned
    return encode_conversation(BYTES, messages)


def objective(*batches):
    return SFT(lambda step: batches[step], 1.0, batches, "key", "template")


def batch_of(rows, segments=True):
    made = stack(rows)
    return tensors(made if segments else {name: made[name] for name in ("inputs", "targets")})


@torch.no_grad()
def surprise(model, text):
    """That of a whole conversation at its learned tokens, written out."""
    log_p = model(torch.tensor([text.ids]))[0].log_softmax(-1)
    return -sum(float(log_p[at, text.ids[at + 1]]) for at in range(len(text.ids) - 1) if text.loss_mask[at + 1])


@settings(deadline=None, max_examples=40)
@given(conversations=CONVERSATIONS)
def test_packed_or_padded_or_alone_the_loss_is_the_same(model, conversations):
    texts = [encoded(turns) for turns in conversations]
    rows = [encode_row(text.ids, text.loss_mask) for text in texts]
    task = objective()
    wanted = sum(surprise(model, text) for text in texts)
    count = sum(sum(text.loss_mask) for text in texts)
    for batch in (
        batch_of(rows, segments=False),
        batch_of(rows),
        batch_of(pack(rows, CONTEXT)),
        batch_of(pack(rows, max(map(len, rows)))),
    ):
        assert task.num_targets(batch) == count
        assert task.loss(model, batch).item() == pytest.approx(wanted, rel=1e-5)


def test_packing_changes_no_gradient_either(model):
    texts = [
        encoded([("ab", "ba", True)]),
        encoded([("a", "b" * 9, True)]),
        encoded([("b", "a", False), ("a", "é", True)]),
    ]
    rows = [encode_row(text.ids, text.loss_mask) for text in texts]
    task, parameters = objective(), list(model.parameters())
    assert len(pack(rows, CONTEXT)) < len(rows)
    packed = torch.autograd.grad(task.loss(model, batch_of(pack(rows, CONTEXT))), parameters)
    alone = [torch.autograd.grad(task.loss(model, batch_of([row])), parameters) for row in rows]
    for together, *each in zip(packed, *alone, strict=True):
        torch.testing.assert_close(together, sum(each), atol=1e-4, rtol=1e-5)


def test_a_conversation_does_not_see_the_others_in_its_row(model):
    def states(row, text):
        """The hidden states of a text in a row, and what they are when it is alone."""
        batch, begins = batch_of([row]), {int(n): (row.segments == n).argmax() for n in row.segments}
        (at,) = (at for at in begins.values() if row.inputs[at : at + len(text)].tolist() == text.inputs.tolist())
        return model.hidden(batch["inputs"], segment_ids=batch["segments"])[0, at : at + len(text)]

    first, second, other = (
        encode_row(text.ids, text.loss_mask)
        for text in (encoded([(asked, answer, True)]) for asked, answer in (("ab", "ba"), ("b", "aab"), ("zz", "zz")))
    )
    (one,), (two,) = (pack(both, CONTEXT) for both in ((first, second), (other, second)))
    assert torch.equal(states(one, second), states(two, second))
    alone = model.hidden(batch_of([second])["inputs"])[0]
    torch.testing.assert_close(states(one, second), alone, atol=1e-5, rtol=1e-5)


def test_the_examination_is_the_mean_over_all_answers_and_counts_what_is_likeliest(model):
    texts = [encoded([("ab", "ba" * n, True)]) for n in (1, 2, 9)]
    rows = [encode_row(text.ids, text.loss_mask) for text in texts]
    model.train()
    found = objective(batch_of(rows[:2]), batch_of(rows[2:])).evaluate(model)
    assert model.training
    model.eval()
    count = sum(sum(text.loss_mask) for text in texts)
    assert found.loss == pytest.approx(sum(surprise(model, text) for text in texts) / count, rel=1e-5)
    right = 0
    for text in texts:
        likeliest = model(torch.tensor([text.ids]))[0].argmax(-1).tolist()
        right += sum(a == b for a, b, yes in zip(likeliest, text.ids[1:], text.loss_mask[1:], strict=False) if yes)
    assert found.metrics == {"token_accuracy": pytest.approx(right / count)}
    assert found.unit == "nats/token"


def test_bfloat16_is_close_and_a_batch_in_parts_is_the_whole(model):
    from handloom.training.objective import micro_batches

    rows = [encode_row(*(lambda t: (t.ids, t.loss_mask))(encoded([("ab", "ba" * n, True)]))) for n in (1, 2, 5, 9)]
    task, batch = objective(), batch_of(rows)
    whole = task.loss(model, batch).item()
    assert sum(task.loss(model, part).item() for part in micro_batches(batch, 2)) == pytest.approx(whole, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert task.loss(model, batch).item() == pytest.approx(whole, rel=0.05)
    assert math.isfinite(whole)
