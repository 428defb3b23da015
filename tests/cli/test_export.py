"""handloom export: from a run to a folder that names a model again."""

from __future__ import annotations

import pytest
from bad_inputs import FOX

from llama_cpp import Llama


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
    assert "holds files that Handloom did not write: mine.txt" in done.err


def test_a_run_trained_from_nothing_writes_the_same_text_in_llama_cpp(inside, tmp_path):
    (tmp_path / "fox.txt").write_text((FOX + "It naps, café au lait in paw: 12, 345!\n") * 60, encoding="utf-8")
    shape = ["--vocab-size", 320, "--context-length", 64, "--layers", 2, "--heads", 2, "--embed-dim", 32]
    often = ["--batch-size", 8, "--steps", 150, "--learning-rate", 0.01, "--sample-every", 0, "--threads", 1]
    run = inside("train", "--data", "fox.txt", "--run", "run", *shape, *often, "--precision", "fp32")
    assert run.returncode == 0, run.err
    done = inside("export", "run", "out", "--to", "gguf")
    assert done.returncode == 0, done.err
    assert done.err == ""
    assert "llama-completion -m out/out.gguf" in done.out
    ours = inside("generate", "The quick", "--max-new-tokens", 60, "--temperature", 0, "--model", "run")
    assert ours.returncode == 0, ours.err
    llama = Llama(tmp_path / "out" / "out.gguf", 64)
    theirs = llama.decode(llama.continued("The quick", 60))
    llama.close()
    assert "café au lait in paw: 12, 345!" in theirs
    assert ours.out.rstrip("\n") == ("The quick" + theirs).rstrip("\n")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "From random weights, 150 steps" in card


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_the_type_of_the_numbers(inside, trained_run, tmp_path, dtype):
    assert inside("export", trained_run, "out", "--to", "gguf", "--dtype", dtype).returncode == 0
    matrices = 280 * 16 + 16 * 16 * 12  # token embedding, and one block: four for attention, eight behind it
    rest = 16 * 16 + 13 * 16 + 2 * 16
    expected = (2 if dtype == "f16" else 4) * matrices + 4 * rest
    assert 0 < (tmp_path / "out" / "out.gguf").stat().st_size - expected < 20_000  # tokens, names, padding
