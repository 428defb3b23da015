"""The race to a validation loss: what counts as reached, and what both recipes may be."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from handloom.bench import speedrun
from handloom.cli.main import main
from handloom.errors import DataError
from handloom.model.gpt import GPT

TEXT = "the loom weaves a thread of blue and red. " * 40
TINY = {"layers": 1, "heads": 1, "embed_dim": 16, "batch_size": 4, "steps": 20, "threads": 1, "precision": "fp32"}


@pytest.fixture
def tiny(monkeypatch):
    recipes = {name: dataclasses.replace(config, **TINY) for name, config in speedrun.RECIPES.items()}
    monkeypatch.setattr(speedrun, "RECIPES", recipes)
    return recipes


@pytest.mark.parametrize("config", speedrun.RECIPES.values(), ids=list(speedrun.RECIPES))
def test_the_models_are_within_the_limit_for_the_65_characters_of_shakespeare(config):
    with torch.device("meta"):
        model = GPT(config.model_config(65))
    assert sum(p.numel() for p in model.parameters()) <= 810_000
    assert model.config.context_length == 64


def test_training_never_sees_the_last_tenth_and_validation_sees_all_of_it():
    text = "ab" * 450 + "c" * 100
    data = speedrun.Characters(text, batch_size=4, seed=0)
    assert data.vocab_size == 3
    seen = torch.cat([data.batch(step)["targets"].flatten() for step in range(20)])
    assert set(seen.tolist()) == {0, 1}
    model = GPT(speedrun.PLAIN.model_config(3))
    with torch.no_grad():
        model.embedding.token_embedding.weight.zero_()
    assert data.evaluate(model).loss == pytest.approx(torch.tensor(3.0).log().item())


def test_a_recipe_stops_at_the_first_validation_within_the_target(tiny):
    found = speedrun.run("plain", tiny["plain"], TEXT, target=100.0)
    assert found.reached
    assert found.steps == 16
    assert found.tokens == 16 * 4 * 64
    assert found.seconds > 0


def test_a_recipe_that_never_reaches_the_target_gives_no_ratio(tiny, tmp_path, capsys):
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "speedrun", "--data", str(file), "--target", "0.001", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["speedup"] is None
    assert [(r["steps"], r["reached"]) for results in found["rounds"].values() for r in results] == [(20, False)] * 2


def test_the_table_names_both_recipes_and_the_ratio(tiny, tmp_path, capsys):
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "speedrun", "--data", str(file), "--target", "100", "--rounds", "2"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.count("plain") == shown.count("ours") == 2
    assert "times as fast" in shown


def test_a_text_without_a_window_is_refused():
    with pytest.raises(DataError, match="too few"):
        speedrun.Characters("short", batch_size=4, seed=0)
