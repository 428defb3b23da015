"""From files of examples to a run: what is refused, what is told, and that each task really learns."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
import torch

from handloom.checkpoints import native
from handloom.errors import CheckpointError, DataError
from handloom.inference.generation_config import GenerationConfig
from handloom.loading import load
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.chat import CHAT_TEMPLATE, Message
from handloom.tokenizer.train import train_bpe
from handloom.training import run
from handloom.training.activation_cache import ActivationStore, CachedBackbone
from handloom.training.config import FinetuneConfig
from handloom.training.metrics_log import read_metrics
from handloom.training.progress import Reporter
from handloom.training.tasks import open_task

WORDS = ["red", "blue", "green", "black", "white"]
TOKENIZER = train_bpe([" ".join(WORDS) * 5, "User:\nAssistant:\nSystem:\n" * 5], 290)
SHAPE = GPTConfig(TOKENIZER.vocab_size, context_length=48, layers=2, heads=2, embed_dim=32)


class Heard(Reporter):
    """Keeps what is told."""

    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text):
        self.notes.append(text)

    def warning(self, text):
        self.warnings.append(text)


@pytest.fixture
def base(tmp_path):
    """A model that knows nothing yet, on disk."""
    native.save(tmp_path / "base", GPT(SHAPE, 0), TOKENIZER, {})
    return tmp_path / "base"


@pytest.fixture
def write(tmp_path):
    def make(*records, name="data.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(tmp_path / name)

    return make


def conversations(number=60):
    """The answer is the word of the question, twice."""
    draw = random.Random(0)
    for _ in range(number):
        word = draw.choice(WORDS)
        yield {"instruction": f"{draw.choice('abcdefgh')} {word}", "output": f"{word} {word}"}


def pairs(number=60):
    draw = random.Random(0)
    for _ in range(number):
        yield {"prompt": f"{draw.choice('abcdefgh')} {draw.choice('abcdefgh')}", "chosen": " blue", "rejected": " red"}


def labelled(number=60):
    """Whether the second letter is an x."""
    draw = random.Random(0)
    for _ in range(number):
        yes = draw.random() < 0.5
        yield {"text": f"{draw.choice('abcdefgh')} {'x' if yes else 'o'} {draw.choice(WORDS)}", "label": int(yes)}


def settings(task, data, base, **changes):
    usual = {
        "model": str(base),
        "data": (data,),
        "task": task,
        "method": "full",
        "learning_rate": 3e-3,
        "validation_fraction": 0.2,
        "steps": 80,
        "batch_size": 8,
        "pack": True,
        "eval_every": 40,
        "checkpoint_every": 80,
        "sample_every": 0,
        "precision": "fp32",
        "threads": 1,
    }
    return FinetuneConfig(**{**usual, **changes})


def opened(task, data, model=None, reporter=None, context_length=48, **changes):
    config = settings(task, data, "base", **changes)
    model = model or GPT(SHAPE, 0)
    config = dataclasses.replace(config, context_length=context_length)
    data = open_task(config, model, TOKENIZER, reporter or Reporter(), lambda: GPT(SHAPE, 0))
    return data.objective, data.description, data.stats


# Each learns


def test_instructions_are_learned_and_the_answer_ends_by_itself(base, write, tmp_path):
    summary = run.begin(tmp_path / "run", settings("sft", write(*conversations()), base, steps=120, sample_every=120))
    losses = [r["loss"] for r in read_metrics(tmp_path / "run") if r["kind"] == "validation"]
    assert losses[-1] < 0.1 * losses[0]
    assert summary["val_token_accuracy"] > 0.95
    checkpoint, _ = native.latest(tmp_path / "run")
    assert checkpoint.training["template"] == CHAT_TEMPLATE
    samples = [r for r in read_metrics(tmp_path / "run") if r["kind"] == "sample" and r["step"] == 120]
    questions = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))["questions"]
    assert [sample["prompt"] for sample in samples] == [f"{question} → " for question in questions]
    assert all(question in {record["instruction"] for record in conversations()} for question in questions)
    assert all(sample["text"].endswith(tuple(WORDS)) for sample in samples)  # drawn, so not always right
    assert len(samples) == 2
    lm = load(tmp_path / "run")
    found = lm.generate([Message("user", "c green")], temperature=0, max_new_tokens=20)
    assert found == "green green"


def test_preferences_are_learned(base, write, tmp_path):
    summary = run.begin(tmp_path / "run", settings("dpo", write(*pairs()), base))
    losses = [r["loss"] for r in read_metrics(tmp_path / "run") if r["kind"] == "validation"]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < 0.1
    assert summary["val_accuracy"] == 1
    gaps = []
    for name in ("base", "run"):
        lm, request = load(tmp_path / name), GenerationConfig.of(max_new_tokens=1, echo=True, logprobs=0)
        blue, red = (lm.complete(f"z z {word}", request).prompt_logprobs for word in ("blue", "red"))
        gaps.append(sum(choice.logprob or 0 for choice in blue) - sum(choice.logprob or 0 for choice in red))
    assert gaps[1] > gaps[0] + 5


def test_labels_are_learned(base, write, tmp_path):
    summary = run.begin(tmp_path / "run", settings("classify", write(*labelled()), base))
    assert summary["val_accuracy"] == summary["val_f1"] == 1
    (a, wrong), (missed, b) = summary["confusion"]
    assert wrong == missed == 0
    assert run.resume(tmp_path / "run")["confusion"] == summary["confusion"]  # no step is left, and nothing lost
    assert a + b == summary["labels"]["0"]["texts"] + summary["labels"]["1"]["texts"]
    assert load(tmp_path / "run").config.label_names == ("0", "1")


@pytest.mark.parametrize(
    ("task", "data", "method"), [("sft", conversations, "lora"), ("dpo", pairs, "full"), ("classify", labelled, "lora")]
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(base, write, tmp_path, task, data, method):
    config = settings(task, write(*data()), base, steps=4, checkpoint_every=2, method=method)
    run.begin(tmp_path / "whole", config)
    run.begin(tmp_path / "parts", config, stop_after=2)
    run.resume(tmp_path / "parts")
    states = [native.latest(tmp_path / name)[0].load_optimizer() for name in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    trains = [[r["loss"] for r in read_metrics(tmp_path / name) if r["kind"] == "train"] for name in ("whole", "parts")]
    assert trains[0] == trains[1]


def test_a_run_does_not_go_on_with_other_examples(base, write, tmp_path):
    config = settings("classify", write(*labelled()), base, steps=4, checkpoint_every=2)
    run.begin(tmp_path / "run", config, stop_after=2)
    write(*labelled(59))
    with pytest.raises(CheckpointError, match="has changed"):
        run.resume(tmp_path / "run")


# What is told


def test_the_data_is_described_for_people_and_in_numbers(write):
    _, line, report = opened("sft", write(*conversations()), batch_size=4)
    assert line.startswith(f"{report['training_examples']} conversations: {report['tokens']:,} tokens in ")
    assert line.endswith(f"held out: {report['validation_examples']}.")
    assert report["training_examples"] + report["validation_examples"] == 60
    assert 0 < report["learned_tokens"] < report["tokens"] <= 48 * report["rows"]
    assert report["rows"] < report["training_examples"]
    assert report["template"] == CHAT_TEMPLATE
    _, line, report = opened("classify", write(*labelled()))
    assert line.startswith(f"{report['training_examples']} texts with 2 labels (0 {report['labels']['0']}, 1 ")
    assert sum(report["labels"].values()) == report["training_examples"]
    _, line, report = opened("dpo", write(*pairs()))
    assert line.startswith(f"{report['training_examples']} pairs of answers: ")
    assert json.loads(json.dumps(report)) == report


def test_every_example_of_an_epoch_is_met_once_whether_packed_or_not(write):
    data = write(*conversations())
    found = {}
    for packed in (True, False):
        objective, _, report = opened("sft", data, pack=packed, batch_size=1)
        batches = [objective.batch(step) for step in range(int(objective.steps_per_epoch))]
        assert ("segments" in batches[0]) == packed
        assert sum(map(objective.num_targets, batches)) == report["learned_tokens"]
        found[packed] = objective.evaluate(GPT(SHAPE, 0))
    assert found[True].loss == pytest.approx(found[False].loss, rel=1e-5)


def test_batches_are_as_long_as_their_longest_row(write):
    data = write(*({"text": "a " * n + "b", "label": n % 2} for n in range(1, 23)))
    objective, _, _ = opened("classify", data, batch_size=2)
    lengths = {objective.batch(step)["inputs"].shape[1] for step in range(9)}
    assert len(lengths) > 5
    for step in range(9):
        batch = objective.batch(step)
        assert batch["inputs"].shape[1] == int(batch["last"].max()) + 1


@pytest.mark.parametrize(("task", "data"), [("sft", conversations), ("dpo", pairs), ("classify", labelled)])
def test_frozen_blocks_know_a_row_again_however_it_is_padded(write, tmp_path, task, data):
    model, rows = GPT(SHAPE, 3), ActivationStore(tmp_path, 10**9)
    objective, _, report = opened(task, write(*data()), model, batch_size=7, pack=False)
    reader = CachedBackbone(model, 1, rows)
    for step in range(4 * int(objective.steps_per_epoch + 1)):
        batch = objective.batch(step)
        wanted, found = (objective.loss(model, batch, cache).item() for cache in (None, reader))
        assert found == pytest.approx(wanted, rel=1e-4)
    answers = 2 if task == "dpo" else 1
    assert len(rows) == reader.computed <= answers * report["training_examples"]


def test_fields_and_answers_that_are_not_learned_are_told(write):
    """A system and a history were dropped without a word; so was every other field."""
    heard = Heard()
    talk = [
        {"system": "Be red.", "history": [["Hi", "red"]], "instruction": f"a{n}", "output": "blue", "id": n}
        for n in range(8)
    ]
    objective, _, report = opened("sft", write(*talk), reporter=heard, context_length=96)
    assert report["omitted"] == {"field": {"count": 8, "by": {"id": 8}}, "context": {"count": 8}}
    assert heard.notes == ["8 fields of records were left out (8 id)."]
    assert heard.warnings[0].startswith("8 answers in histories or prompts are read as context, and not learned.")
    batch = objective.batch(0)
    read, learned = batch["inputs"], batch["targets"]
    assert set(learned[learned >= 0].tolist()) == {*TOKENIZER.encode("blue"), TOKENIZER.eos_token_id}
    assert TOKENIZER.decode(read[0].tolist()).count("Be red.") >= 1


def test_what_was_left_out_and_which_labels_are_missing_is_told(write):
    heard = Heard()
    long = {"instruction": "a", "output": "red " * 60}
    _, _, report = opened("sft", write(*conversations(), long), reporter=heard, overlong="skip")
    assert list(report["omitted"]) == ["overlong"]
    assert heard.notes[0].startswith("1 example was longer than a row and left out: ")
    assert heard.notes[0].endswith("line 61.")
    heard = Heard()
    opened("classify", write(*labelled(), {"text": "z", "label": 7}), reporter=heard)
    assert len(heard.warnings) == 1
    assert "label 7" in heard.warnings[0]


def test_a_key_stands_for_all_that_rows_are_made_of_and_not_for_their_order(write):
    data = write(*conversations())
    keys = [
        opened("sft", data, **changes)[0].data_hash
        for changes in (
            {},
            {"context_length": 40},
            {"pack": False},
            {"overlong": "truncate"},
            {"validation_fraction": 0.3},
        )
    ]
    assert len(set(keys)) == len(keys)
    assert opened("sft", data, seed=5, batch_size=3)[0].data_hash == keys[0]
    assert opened("sft", write(*conversations(), name="copy.jsonl"))[0].data_hash == keys[0]


def test_pairs_have_a_template_only_if_all_are_conversations(write):
    asked = {"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}]}
    asked["rejected"] = [{"role": "assistant", "content": "c"}]
    other = json.loads(json.dumps(asked).replace('"a"', '"d"'))
    assert opened("dpo", write(asked, other))[0].chat_template == CHAT_TEMPLATE
    assert opened("dpo", write(asked, other, *pairs()))[0].chat_template is None
    assert opened("dpo", write(*pairs()))[0].chat_template is None


# Labels


def test_labels_are_in_order_and_a_model_keeps_its_own(write):
    model = GPT(SHAPE, 0)
    opened("classify", write(*({"text": str(n), "label": n} for n in (10, 9, -1, 2))), model)
    assert model.config.label_names == ("-1", "2", "9", "10")
    head = model.classifier.weight.clone()
    objective, _, _ = opened("classify", write(*({"text": f"n{n}", "label": n} for n in (2, 10))), model)
    assert objective.names == ("-1", "2", "9", "10")
    assert torch.equal(model.classifier.weight, head)
    with pytest.raises(DataError, match=r"line 2: the model has the labels -1, 2, 9, 10, not 'spam'\."):
        opened("classify", write({"text": "a", "label": 2}, {"text": "b", "label": "spam"}), model)
    words = GPT(SHAPE, 0)
    opened("classify", write(*({"text": word, "label": word} for word in WORDS)), words)
    assert words.config.label_names == tuple(sorted(WORDS))


def test_a_single_label_is_nothing_to_learn(write):
    with pytest.raises(DataError, match="All 3 texts have the label 'ham', so there is nothing to classify"):
        opened("classify", write(*({"text": str(n), "label": "ham"} for n in range(3))))
