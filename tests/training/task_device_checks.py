"""One step of every task and kind of method on a device of another name: the same loss and the same gradients."""

from __future__ import annotations

import json

import pytest
import torch

from devices import NAME, disguise, to_device
from handloom.training import run
from handloom.training.config import FinetuneConfig
from handloom.training.finetune_setup import finetune_setup
from handloom.training.objective import TrainStep
from handloom.training.optimizer import Optimizer
from handloom.training.progress import Reporter

with disguise():
    pass  # autograd counts the devices at its first backward pass, so that this one has to be known before

TURNS = [{"role": "user", "content": "red?"}, {"role": "assistant", "content": "blue"}]
RECORDS = {
    "text": [{"text": f"the loom weaves thread {i} over and under " * 3} for i in range(30)],
    "sft": [{"messages": [{"role": "user", "content": f"{i}?"}, TURNS[1]]} for i in range(30)],
    "dpo": [{"prompt": f"{i} ", "chosen": "red", "rejected": "blue"} for i in range(30)],
    "classify": [{"text": f"{i} " + "red " * (1 + i % 3), "label": "ab"[i % 2]} for i in range(30)],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, corpus_folder):
    from handloom.training.config import TrainConfig

    folder = tmp_path_factory.mktemp("base") / "run"
    shape = {"layers": 2, "heads": 2, "embed_dim": 16, "context_length": 64, "vocab_size": 300}
    config = TrainConfig(
        data=(str(corpus_folder),), steps=2, batch_size=4, precision="fp32", threads=1, sample_every=0, **shape
    )
    run.begin(folder, config)
    return folder


def one_step(config, folder, device=None):
    """Loss, gradients, what an optimizer step changed, and the loss after it; on `device` if one is given."""
    setup = finetune_setup(config, folder, Reporter())
    model, objective = setup.model, setup.objective
    if device is not None:
        to_device(model, device)
        assert model.device.type == NAME
    step = TrainStep(model, objective, cache=setup.cache).train()
    adamw = Optimizer(model, "adamw", 0.01, weight_decay=0.0, betas=(0.9, 0.999))
    loss = step(objective.batch(0))
    loss.backward()
    gradients = {name: parameter.grad.cpu() for name, parameter in adamw.parameters.items()}
    before = {name: parameter.detach().cpu().clone() for name, parameter in adamw.parameters.items()}
    for part in adamw.parts:
        for group in part.param_groups:
            group["fused"] = None if device is None else False  # PyTorch's fused kernel is for devices that it has
    adamw.step(1.0)
    changed = {name for name, parameter in adamw.parameters.items() if not parameter.detach().cpu().equal(before[name])}
    return loss.item(), gradients, changed, step.evaluate().loss


@pytest.mark.parametrize("method", ["full", "lora", "last:1"])
@pytest.mark.parametrize("task", list(RECORDS))
def test_a_step_of_every_task_is_that_of_the_cpu(tmp_path, base, task, method):
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[task]), encoding="utf-8")
    config = FinetuneConfig(
        model=str(base), data=(str(file),), task=task, method=method, steps=3, batch_size=4, threads=1, precision="fp32"
    )
    loss, gradients, changed, evaluated = one_step(config, tmp_path / "run")
    assert changed
    with disguise() as device:
        found_loss, found, found_changed, found_evaluated = one_step(config, tmp_path / "run", device)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert found_changed == changed
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
    assert found_evaluated == pytest.approx(evaluated, rel=1e-4)
