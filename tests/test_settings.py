"""Settings: default < file < flag; whatever has no meaning is refused with its name, value and limit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from handloom.errors import ConfigError
from handloom.training.config import TrainConfig


def test_the_file_overrules_defaults_and_flags_overrule_the_file(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('steps = 7\nbatch_size = 2\ndata = ["x.txt"]\n', encoding="utf-8")
    config = TrainConfig.merged(file, {"batch_size": 4})
    assert (config.steps, config.batch_size, config.data, config.seed) == (7, 4, ("x.txt",), 0)


def test_a_flag_overrules_the_files_choice_between_steps_and_minutes(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("minutes = 7\n", encoding="utf-8")
    assert TrainConfig.merged(file, {"steps": 3}).minutes is None
    assert TrainConfig.merged(file, {}).minutes == 7


def test_written_settings_read_back_equal(tmp_path):
    config = TrainConfig(data=("a b", 'c"d'), steps=3, dropout=0.25, tensorboard=True, sample_prompts=("ä\n",))
    file = tmp_path / "a.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert TrainConfig.merged(file, {}) == config


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_every_shipped_file_parses(path):
    TrainConfig.merged(path, {}).model_config(50257)


def test_every_setting_says_what_it_means():
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["help"].endswith("."), field.name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("stepz = 3", r"'stepz'.*Did you mean 'steps'"),
        ("steps = 'three'", "steps is 'three'.*a whole number"),
        ("steps = true", "steps is True"),
        ("data = 3", "data is 3.*a list of texts"),
        ("data = ['a', 3]", "a list of texts"),
        ("tensorboard = 1", "true or false"),
        ("batch_size = 0", "batch_size is 0.*at least 1"),
        ("schedule = 'square'", "schedule is 'square'.*linear, cosine, constant"),
        ("steps = 1\nminutes = 1", "Both steps and minutes"),
        ("batch_size = 6\nmicro_batch_size = 4", "batch_size of 6"),
        ("minutes = inf", "minutes is inf.*a finite number"),
        ("heads = 3", "heads 3"),
        ("context_length = 8\nstride = 9", "stride is 9.*from 1 to the context length, 8"),
        ("learning_rate = nan", "learning_rate is nan"),
        ("steps = ", "is not TOML"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path, content, words):
    file = tmp_path / "a.toml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        TrainConfig.merged(file, {})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        TrainConfig.merged(tmp_path / "nowhere.toml", {})


def test_half_a_character_is_refused():
    with pytest.raises(ConfigError, match="half of a character"):
        TrainConfig.merged(None, {"sample_prompts": ["a", "\ud800"]})


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_settings_file_with_a_byte_order_mark_is_read(tmp_path, mark):
    file = tmp_path / "settings.toml"
    file.write_bytes(f"{mark}steps = 3\r\nseed = 1\r\n".encode())
    config = TrainConfig.merged(file, {})
    assert (config.steps, config.seed) == (3, 1)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_settings_file_in_utf_16_is_named_as_such(tmp_path, encoding):
    file = tmp_path / "settings.toml"
    file.write_bytes("steps = 3\n".encode(encoding))
    with pytest.raises(ConfigError, match=r"is UTF-16 .* Save it as UTF-8"):
        TrainConfig.merged(file, {})
