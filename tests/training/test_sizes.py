"""Little data makes a sensible run by itself, and what does not fit together is said with the flag that helps."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tasks import SHAPE, TOKENIZER, Heard, conversations, labelled, opened, pairs

from handloom.checkpoints import native
from handloom.data.lint import LintSettings, lint
from handloom.errors import ConfigError, DataError
from handloom.model.gpt import GPT
from handloom.tokenizer.gpt2 import TiktokenTokenizer
from handloom.tokenizer.train import train_bpe
from handloom.training import run
from handloom.training.config import DEFAULT_BATCH, MIN_STEPS_PER_EPOCH, FinetuneConfig
from handloom.training.tasks import batch_size_for


@given(st.integers(1, 1000))
def test_the_batch_is_the_largest_that_leaves_enough_steps(rows):
    size = batch_size_for(rows)
    assert size in (1, 2, 4, 8)
    assert size == 1 or rows >= MIN_STEPS_PER_EPOCH * size
    assert size == DEFAULT_BATCH or rows < MIN_STEPS_PER_EPOCH * size * 2
    assert size <= batch_size_for(rows + 1)


@pytest.fixture
def write(tmp_path):
    def make(records, name="data.jsonl"):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / name).write_text(lines, encoding="utf-8")
        return str(tmp_path / name)

    return make


@pytest.fixture
def base(tmp_path):
    native.save(tmp_path / "base", GPT(SHAPE, 0), TOKENIZER, {})
    return str(tmp_path / "base")


QUICK = {"precision": "fp32", "threads": 1, "sample_every": 0, "eval_every": 1000, "checkpoint_every": 1000}


def test_sixty_conversations_with_all_defaults_are_some_tens_of_steps(base, write, tmp_path):
    """They were packed into 4 rows, less than a batch, and the run had 2 steps."""
    heard = Heard()
    data = write(conversations(60))
    run.begin(tmp_path / "run", FinetuneConfig(model=base, data=(data,), task="sft", **QUICK), heard)
    checkpoint, _ = native.latest(tmp_path / "run")
    settings = checkpoint.training["settings"]
    described = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))
    assert (settings["batch_size"], settings["pack"]) == (described["batch_size"], described["pack"]) == (2, False)
    assert described["rows"] == described["training_examples"] == 57
    assert settings["steps"] == 86  # three epochs
    assert not any("few" in warning for warning in heard.warnings)
    assert not any("batch" in warning for warning in heard.warnings)


@pytest.mark.parametrize(("task", "data"), [("dpo", pairs), ("classify", labelled), ("sft", conversations)])
def test_every_task_adapts_and_what_is_given_stays(write, task, data):
    examples = write(data(60))

    def size(examples, **changes):
        return opened(task, examples, **{"steps": None, "batch_size": None, "pack": None, **changes})[2]["batch_size"]

    assert size(examples) == 2
    assert size(examples, batch_size=16) == 16
    assert size(examples, micro_batch_size=4) == 4  # whole micro-batches
    assert size(examples, steps=100) == 8  # fewer would only be less learned
    assert size(write(data(5)), steps=100) == 4
    assert size(write(data(400))) == 8


def test_many_conversations_are_packed_and_few_are_if_asked(write):
    many = opened("sft", write(conversations(1200)), pack=None)[2]
    assert many["pack"]
    assert many["rows"] >= MIN_STEPS_PER_EPOCH * DEFAULT_BATCH
    few = write(conversations(60))
    assert not opened("sft", few, pack=None)[2]["pack"]
    assert opened("sft", few, pack=True)[2]["rows"] < 20


def test_few_steps_and_a_batch_larger_than_the_data_are_said_with_the_flag_that_helps(base, write, tmp_path):
    heard = Heard()
    settings = {"model": base, "data": (write(conversations(60)),), "task": "sft", "batch_size": 32, **QUICK}
    run.begin(tmp_path / "a", FinetuneConfig(**settings, epochs=1, pack=True), heard)
    assert heard.warnings[-2:] == [
        "With so little data `epochs=1` amounts to 1 step, which is few to learn from. `epochs=51` makes it 30 or "
        "more.",
        "The data has 19 rows, fewer than the batch of 32, so each step repeats rows. "
        "`batch_size=1` suits so little data.",
    ]
    heard = Heard()
    run.begin(tmp_path / "b", FinetuneConfig(**settings, steps=1), heard)  # whoever says 1 step means it
    assert not any("few to learn" in warning for warning in heard.warnings)


def test_text_adapts_when_it_is_tuned_on_and_says_so_when_it_is_trained_on(base, tmp_path, tiny):
    text = tmp_path / "little.txt"
    text.write_text("".join(f"Line {n} of a text that is short.\n" for n in range(60)), encoding="utf-8")
    run.begin(tmp_path / "tuned", FinetuneConfig(model=base, data=(str(text),), context_length=48, epochs=0.2, **QUICK))
    tuned = json.loads((tmp_path / "tuned" / "data.json").read_text(encoding="utf-8"))
    assert tuned["batch_size"] == batch_size_for(tuned["train_tokens"] // 48) < 8
    heard = Heard()
    run.begin(tmp_path / "trained", tiny(data=(str(text),), batch_size=500, steps=1), heard)
    assert [w.partition(", so")[0].partition(" rows")[2] for w in heard.warnings] == [", fewer than the batch of 500"]


def test_rows_that_the_steps_do_not_come_to_are_counted(tmp_path, tiny):
    heard = Heard()
    run.begin(tmp_path / "run", tiny(steps=2), heard)
    described = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))
    windows = -(-(described["train_tokens"] - 1) // 16)
    assert described["omitted"] == {"unreached": {"count": windows - 8}}
    assert f"{windows - 8:,} rows of the data are not reached in the steps of this run." in heard.notes


# Text that comes to few tokens


def text_of(kind, folder):
    """A megabyte and a half that comes to next to nothing."""
    if kind == "repetition":
        (folder / "a.txt").write_text("a" * 1_500_000, encoding="utf-8")
    else:
        for number in range(300):
            (folder / f"{number}.txt").write_text("The loom weaves.\n", encoding="utf-8")


REASONS = {
    "repetition": (
        "It has 1.35 MB, but repeats itself so much that its tokens are ",
        "Give text with other content, lower `vocab_size`, or lower `context_length`.",
    ),
    "copies": (
        "299 documents were left out as exact copies of others.",
        "Give text with other content, or lower `context_length`.",
    ),
}


@pytest.mark.parametrize("kind", REASONS)
def test_why_much_text_is_few_tokens_is_said_by_the_run_and_by_the_check(tmp_path, tiny, kind):
    """1.5 MB of repetition was told to give more text."""
    folder = tmp_path / "text"
    folder.mkdir()
    text_of(kind, folder)
    with pytest.raises(DataError) as refused:
        run.begin(tmp_path / "run", tiny(data=(str(folder),), context_length=64))
    problem, remedy = REASONS[kind]
    assert problem in refused.value.problem
    assert refused.value.remedy == remedy
    tokenizer = TiktokenTokenizer(train_bpe(["a" * 1_350_000 if kind == "repetition" else "The loom weaves.\n"], 300))
    found = [each for each in lint([folder], tokenizer, LintSettings(context_length=64)) if each.kind == "one-side"]
    assert problem in f"{found[0].detail}."
    assert found[0].remedy == remedy


def test_a_short_text_is_still_told_to_be_longer(tmp_path, tiny):
    (tmp_path / "a.txt").write_text("Too short, though nothing in it is said twice.", encoding="utf-8")
    with pytest.raises(DataError, match="Give more text, or lower `context_length`"):
        run.begin(tmp_path / "run", tiny(data=(str(tmp_path / "a.txt"),), context_length=128))
    with pytest.raises(ConfigError, match="batch_size is 0; it must be at least 1"):
        tiny(batch_size=0)
