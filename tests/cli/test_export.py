"""handloom export: from a run to a folder that names a model again."""

from __future__ import annotations


def test_an_exported_run_writes_the_same_text(inside, trained_run, tmp_path):
    done = inside("export", trained_run, tmp_path / "out", "--to", "hf")
    assert done.returncode == 0, done.err
    assert "AutoModelForCausalLM" in done.out
    words = ("generate", "The", "--max-new-tokens", "8", "--model")
    before, after = inside(*words, trained_run), inside(*words, tmp_path / "out")
    assert before.returncode == after.returncode == 0, after.err
    assert before.out == after.out
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "From random weights, 4 steps" in card


def test_a_model_in_the_models_folder_is_found_by_its_name(inside, trained_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HANDLOOM_MODELS", str(tmp_path / "models"))
    assert inside("export", trained_run, tmp_path / "models" / "anna--fox", "--to", "hf").returncode == 0
    assert inside("generate", "The", "--max-new-tokens", "4", "--model", "anna/fox").returncode == 0
    missing = inside("generate", "The", "--model", "anna/dog")
    assert missing.returncode == 2
    assert "handloom pull anna/dog" in missing.err


def test_a_folder_that_is_there_is_refused(inside, trained_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    done = inside("export", trained_run, tmp_path / "out", "--to", "hf")
    assert done.returncode == 2
    assert "exists already" in done.err
