"""A plan with a faked meter: which shape a fast, a slow and a small machine get, and how its prediction is scored."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from handloom.cli.main import main
from handloom.cli.plan import bytes_of
from handloom.errors import ConfigError
from handloom.finetuning.memory_estimate import RUNTIME_BYTES
from handloom.settings import read_toml
from handloom.training import plan
from handloom.training.progress import Reporter
from handloom.training.setup import make_tokenizer, open_text, prepare_text

SHAPES = tuple({"layers": 1, "heads": 1, "embed_dim": width, "context_length": 16} for width in (8, 32, 128))


@pytest.fixture
def propose(tiny, monkeypatch):
    """The proposal for a machine that trains so many parameters times tokens in a second."""
    monkeypatch.setattr(plan, "SHAPES", SHAPES)
    config = tiny(steps=None, minutes=1.0)
    corpus = open_text(config)
    tokenizer = make_tokenizer(config, corpus, Reporter())
    data = prepare_text(config, corpus, tokenizer, Reporter())

    def made(speed, memory=10**10):
        def meter(setup):
            parameters = sum(p.numel() for p in setup.model.parameters())
            return setup.config.batch_size * setup.model.config.context_length * parameters / speed

        return plan.propose(config, memory, data, tokenizer, meter=meter)

    return made


def test_a_faster_machine_gets_a_larger_model(propose):
    found = [propose(speed) for speed in (1e4, 1e7, 1e13)]
    assert found[0].parameters <= found[1].parameters <= found[2].parameters
    assert found[0].parameters < found[2].parameters
    bits = [each.prediction.bits_per_byte for each in found]
    assert bits == sorted(bits, reverse=True)
    assert all(each.prediction.seconds == 60 for each in found)


def test_the_steps_fill_the_minutes_less_validation_and_saving(propose):
    found = propose(1e9)
    seconds = found.steps * found.config.batch_size * found.config.context_length / found.tokens_per_second
    assert 0.8 * 60 < seconds < 60


def test_a_model_that_does_not_fit_is_not_proposed(propose):
    large = propose(1e13)
    small = propose(1e13, large.prediction.memory_bytes - 1)
    assert small.parameters < large.parameters
    with pytest.raises(ConfigError, match="smallest model"):
        propose(1e13, RUNTIME_BYTES)


def test_more_text_and_larger_models_learn_more_and_text_read_again_less():
    loss = plan.predicted_loss
    assert loss(10**6, 10**6, 10**9) > loss(10**7, 10**6, 10**9)
    assert loss(10**6, 10**6, 10**9) > loss(10**6, 10**7, 10**9)
    assert loss(10**6, 10**7, 10**9) == loss(10**6, 10**7, 10**7) < loss(10**6, 10**7, 10**6)


@pytest.mark.parametrize(("text", "size"), [("8GB", 8e9), ("500 MB", 5e8), ("2e9", 2e9), ("1.5g", 1.5e9)])
def test_sizes_of_memory(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "much", "8TB", "1.2.3GB", "0"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="not a size"):
        bytes_of(text)


def test_a_plan_is_written_run_and_scored(corpus_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "SHAPES", SHAPES)
    monkeypatch.setattr(plan, "step_seconds", lambda setup: 0.001)
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--minutes", "0.02", "--memory", "4GB", "--data", str(corpus_folder)])
    assert ended.value.code == 0
    assert "handloom train --plan plan.toml" in capsys.readouterr().out
    values = read_toml(Path("plan.toml"))
    assert values["prediction"].keys() == {field.name for field in dataclasses.fields(plan.Prediction)}
    assert values["minutes"] == 0.02
    with pytest.raises(SystemExit) as ended:
        main(["train", "--plan", "plan.toml", "--run", "run", "--sample-every", "0"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for words in ("predicted", "measured", "peak memory", "bits per byte"):
        assert words in shown
