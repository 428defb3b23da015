"""DPO here and in TRL: from the same pairs and weights the same tokens, loss, gradients and figures."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from handloom.checkpoints.hf_export import export_folder
from handloom.checkpoints.hf_folder import to_hf
from handloom.data.collate import encode_row
from handloom.data.examples import ExampleEncoder, PreferencePair, read_examples
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.train import train_bpe
from handloom.training.task_objectives import DPO
from handloom.training.tasks import pairs_batch

BETA = 0.3
TEMPLATE = """{{ eos_token }}{% for m in messages %}{{ m.role.capitalize() + ':\\n' + m.content + eos_token }}\
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"""
"""Our template in the language of transformers. It is encoded in one piece, which is the same for these contents."""
TEXTS = [
    {"prompt": "The sky is", "chosen": " blue by day.", "rejected": " a cat."},
    {"prompt": "A loom is", "chosen": " a frame.", "rejected": " made of the sea, it is said, by the cat."},
    {"prompt": "Two and two are", "chosen": " four", "rejected": " five"},
    {"prompt": "The cat sat on", "chosen": " the mat, the mat, the mat.", "rejected": " it"},
    {"prompt": "Day", "chosen": " and night.", "rejected": "!"},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model that has moved away from its reference a little, with its tokenizer; both as folders too."""
    folder = tmp_path_factory.mktemp("dpo")
    tokenizer = train_bpe([json.dumps(TEXTS) * 3, "User:\nAssistant:\n"], 320)
    shape = GPTConfig(tokenizer.vocab_size, context_length=64, layers=2, heads=2, embed_dim=32)
    model, reference = GPT(shape, 1).eval(), GPT(shape, 1).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for a, b in zip(model.parameters(), reference.parameters(), strict=True):
            b.mul_(3)
            a.copy_(b + 0.05 * torch.randn(a.shape, generator=noise))
    for name, each in (("model", model), ("reference", reference)):
        export_folder(folder / name, each, tokenizer)
    return model, reference, tokenizer, folder


@pytest.fixture(scope="module")
def theirs(models, tmp_path_factory):
    """`theirs(records)`: TRL's trainer with that model, that reference and those pairs, in order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import DPOConfig, DPOTrainer
    folder = models[3]

    def make(records, template=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, reference = (AutoModelForCausalLM.from_pretrained(folder / n) for n in ("model", "reference"))
            tokenizer = AutoTokenizer.from_pretrained(folder / "model")
            tokenizer.chat_template = template
            config = DPOConfig(
                output_dir=str(tmp_path_factory.mktemp("trl")),
                beta=BETA,
                per_device_train_batch_size=len(records),
                disable_dropout=True,
                use_cpu=True,
                bf16=False,
                report_to="none",
                gradient_checkpointing=False,
                disable_tqdm=True,
            )
            trainer = DPOTrainer(
                model, reference, args=config, train_dataset=Dataset.from_list(records), processing_class=tokenizer
            )
            batch = trainer.data_collator(list(trainer.train_dataset))
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
        return trainer, loss.detach(), batch

    return make


def ours(models, records, tmp_path):
    """The pairs as we encode them, and our objective over all of them."""
    _, reference, tokenizer, _ = models
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    found = ExampleEncoder(64, "error").encode(read_examples(PreferencePair, [path]), tokenizer)
    batch = pairs_batch([tuple(encode_row(text.ids, text.loss_mask) for text in both) for _, both in found])
    objective = DPO(lambda step: batch, 1.0, [batch], "key", beta=BETA)
    objective.compute_reference_logprobs(reference, "fp32")
    return found, objective, batch


def compare(models, theirs, records, tmp_path, template=None):
    model = models[0]
    trainer, their_loss, their_batch = theirs(records, template)
    found, objective, batch = ours(models, records, tmp_path)
    for at, (_, (chosen, rejected)) in enumerate(found):
        for text, place in ((chosen, at), (rejected, at + len(found))):
            whole = their_batch["attention_mask"][place].bool()
            assert their_batch["input_ids"][place][whole].tolist() == text.ids
            assert their_batch["completion_mask"][place][whole].bool().tolist() == text.loss_mask
    model.zero_grad()
    loss = objective.loss(model, batch) / objective.num_targets(batch)
    torch.testing.assert_close(loss.detach(), their_loss, atol=1e-6, rtol=1e-5)
    loss.backward()
    theirs_by_name = {name: p.grad for name, p in trainer.model.named_parameters()}
    gradients = GPT(model.config)
    for mine, of in zip(gradients.parameters(), model.parameters(), strict=True):
        mine.data = of.grad
    mine_by_name = to_hf(gradients)
    assert mine_by_name.keys() - {"lm_head.weight"} == theirs_by_name.keys()
    for name, gradient in theirs_by_name.items():
        torch.testing.assert_close(mine_by_name[name], gradient, atol=1e-5, rtol=1e-4)
    figures = objective.evaluate(model)
    told = trainer._metrics["eval"]  # dropout is off
    assert figures.loss == pytest.approx(float(their_loss), abs=1e-5)
    assert figures.metrics["accuracy"] == pytest.approx(told["rewards/accuracies"][0])
    assert figures.metrics["margin"] == pytest.approx(told["rewards/margins"][0], abs=1e-5)
    assert 0 < figures.metrics["accuracy"] < 1


def test_pairs_of_texts(models, theirs, tmp_path):
    compare(models, theirs, TEXTS, tmp_path)


def test_pairs_of_conversations(models, theirs, tmp_path):
    records = [
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text["prompt"]}],
            "chosen": [{"role": "assistant", "content": text["chosen"].strip()}],
            "rejected": [{"role": "assistant", "content": text["rejected"].strip()}],
        }
        for text in TEXTS
    ]
    compare(models, theirs, records, tmp_path, TEMPLATE)
