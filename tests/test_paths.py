"""Paths as users give them: one function reads them all."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from handloom import runtime
from handloom.cli.main import app
from handloom.data.sources import files_of
from handloom.errors import ConfigError
from handloom.loading import find_model
from handloom.tokenizer import load_tokenizer
from handloom.training.config import FinetuneConfig, TrainConfig


def test_a_tilde_is_the_home_folder(tmp_path):
    assert runtime.user_path("~/x", "--run") == tmp_path / "x"
    assert runtime.user_path("~", "--run") == tmp_path
    me = pwd.getpwuid(os.getuid())
    assert runtime.user_path(f"~{me.pw_name}/x", "--run") == Path(me.pw_dir, "x")
    assert runtime.user_path("a/~/b", "--run") == Path("a/~/b")


def test_a_file_whose_own_name_begins_with_a_tilde_is_reached(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("~backup.txt").write_text("text")
    assert files_of("~backup.txt") == [Path("~backup.txt")]
    with pytest.raises(ConfigError, match="no such user"):
        runtime.user_path("~another.txt", "--data")


@pytest.mark.parametrize("empty", ["", "  ", "\t"])
def test_nothing_is_no_path(empty):
    for read in (lambda: find_model(empty), lambda: files_of(empty), lambda: load_tokenizer(empty)):
        with pytest.raises(ConfigError, match=r"is empty.*variable that is not set"):
            read()


def test_settings_are_paths_too(tmp_path):
    config = TrainConfig(data=("~/a.txt", "./python-docs", "-"), tokenizer="~/words")
    assert config.data == (str(tmp_path / "a.txt"), "./python-docs", "-")  # ./ tells a file from a corpus
    assert config.tokenizer == str(tmp_path / "words")
    assert FinetuneConfig(data=("a",), model="~/runs/x").model == str(tmp_path / "runs/x")
    for settings in ({"data": ("a", "")}, {"tokenizer": ""}):
        with pytest.raises(ConfigError, match="is empty"):
            TrainConfig(**settings)


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(ConfigError, match="`data` contains a NUL"):
        TrainConfig(data=("a\0b",))


def test_folders_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDLOOM_CACHE", "~/c")
    monkeypatch.setenv("HANDLOOM_MODELS", "~/m")
    assert (runtime.cache_folder(), runtime.models_folder()) == (tmp_path / "c", tmp_path / "m")
    monkeypatch.setenv("HANDLOOM_MODELS", "")
    with pytest.raises(ConfigError, match="HANDLOOM_MODELS is empty"):
        runtime.models_folder()
    monkeypatch.delenv("HANDLOOM_CACHE")
    for no_folder in ("", "relative"):  # as freedesktop.org has it
        monkeypatch.setenv("XDG_CACHE_HOME", no_folder)
        assert runtime.cache_folder() == tmp_path / ".cache/handloom"


def test_without_home_and_without_an_entry_of_the_user_an_error_says_what_to_set(monkeypatch):
    def unknown(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "HANDLOOM_CACHE", "HANDLOOM_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="Without HANDLOOM_CACHE this needs"):
        runtime.cache_folder()
    for needs_home in (runtime.cache_folder, runtime.models_folder, lambda: runtime.user_path("~/runs/x", "--run")):
        with pytest.raises(ConfigError, match=r"home folder, which is not known.*Set HOME"):
            needs_home()


def _parameters(app):
    for name in app:
        command = app[name]
        if name.startswith("-"):
            continue
        if command.default_command is not None:
            yield from ((name, argument) for argument in command.assemble_argument_collection(parse_docstring=False))
        if name in ("data", "model"):
            yield from _parameters(command)


def test_every_path_of_the_command_line_is_read_by_the_one_function():
    found = [(command, argument) for command, argument in _parameters(app) if "Path" in str(argument.hint)]
    assert len(found) > 15
    plain = [f"{command} {a.name}" for command, a in found if "path_of" not in str(a.parameter.converter)]
    assert plain == []
