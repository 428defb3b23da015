"""DPO by its definition; agreement with TRL's trainer is in tests/agreement/test_trl.py."""

from __future__ import annotations

import math

import pytest
import torch

from handloom.data.collate import encode_row
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.training.objective import micro_batches
from handloom.training.task_objectives import DPO, answer_logprobs, dpo_losses
from handloom.training.tasks import pairs_batch


def model(seed):
    made = GPT(GPTConfig(50, context_length=24, layers=2, heads=2, embed_dim=16), seed).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return made


def texts(number, seed=0):
    """Pairs of (ids, length of the prompt): a prompt in common, two answers of different lengths."""
    random = torch.Generator().manual_seed(seed)

    def draw(least, most):
        length = int(torch.randint(least, most, (), generator=random))
        return torch.randint(0, 50, (length,), generator=random).tolist()

    made = []
    for _ in range(number):
        prompt = draw(1, 9)
        made.append(tuple((prompt + draw(1, 9), len(prompt)) for _ in range(2)))
    return made


def rows(pairs):
    return [tuple(encode_row(ids, [at >= begin for at in range(len(ids))]) for ids, begin in both) for both in pairs]


@torch.no_grad()
def log_likelihood(reader, ids, begin):
    log_p = reader(torch.tensor([ids]))[0].log_softmax(-1)
    return sum(float(log_p[at - 1, ids[at]]) for at in range(begin, len(ids)))


def task(batches, validation=(), beta=0.5):
    made = [pairs_batch(batch) for batch in batches]
    held_out = [pairs_batch(batch) for batch in validation]
    return DPO(lambda step: made[step % len(made)], len(made), held_out, "key", beta=beta)


def test_likelihoods_are_those_of_the_answers_alone_whatever_the_padding():
    reader, pairs = model(0), texts(6)
    found = answer_logprobs(reader, pairs_batch(rows(pairs)))
    for row, both in zip(found.tolist(), pairs, strict=True):
        assert row == pytest.approx([log_likelihood(reader, *each) for each in both], rel=1e-5)


def test_the_loss_is_the_papers():
    reader, reference, pairs = model(0), model(1), texts(6)
    objective = task([rows(pairs)])
    objective.compute_reference_logprobs(reference, "fp32")
    wanted = []
    for both in pairs:
        gains = [log_likelihood(reader, *each) - log_likelihood(reference, *each) for each in both]
        wanted.append(-math.log(1 / (1 + math.exp(-0.5 * (gains[0] - gains[1])))))
    batch = objective.batch(0)
    assert objective.loss(reader, batch).item() == pytest.approx(sum(wanted), rel=1e-4)
    assert objective.num_targets(batch) == 6
    halves = [objective.loss(reader, part).item() for part in micro_batches(batch, 2)]
    assert halves == pytest.approx([sum(wanted[:3]), sum(wanted[3:])], rel=1e-4)


def test_dpo_losses_of_given_gains():
    found = dpo_losses(torch.tensor([0.0, 3.0, -2.0]), torch.tensor([0.0, 1.0, 2.0]), 0.5)
    assert found.tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-1)), math.log1p(math.exp(2))])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_itself_pays_log_2_in_whatever_batch_a_pair_comes(precision):
    reader, pairs = model(0), rows(texts(7))
    objective = task([pairs[:4], pairs[4:]], [pairs[:1]])
    objective.compute_reference_logprobs(reader, precision)
    shuffled = pairs_batch([pairs[at] for at in (6, 0, 3)])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = objective.loss(reader, shuffled).item() / 3
    assert loss == pytest.approx(math.log(2), abs=1e-5 if precision == "fp32" else 0.1)
    found = objective.evaluate(reader)
    assert found.loss == pytest.approx(math.log(2), abs=1e-5)


def test_the_examination_says_how_often_and_by_how_much():
    reader, reference, pairs = model(0), model(1), texts(9, seed=3)
    objective = task([rows(pairs)], [rows(pairs)[:4], rows(pairs)[4:]])
    objective.compute_reference_logprobs(reference, "fp32")
    margins = []
    for both in pairs:
        gains = [log_likelihood(reader, *each) - log_likelihood(reference, *each) for each in both]
        margins.append(0.5 * (gains[0] - gains[1]))
    reader.train()
    found = objective.evaluate(reader)
    assert reader.training
    assert found.metrics["margin"] == pytest.approx(sum(margins) / 9, rel=1e-4)
    assert found.metrics["accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / 9)
    assert 0 < found.metrics["accuracy"] < 1
