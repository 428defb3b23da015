"""handloom verify: passes a sound model, and names what is wrong with another."""

from __future__ import annotations

import json

import pytest

from handloom.loading import load


def test_a_sound_run_passes(inside, trained_run):
    done = inside("verify", trained_run, "--json")
    assert done.returncode == 0, done.out + done.err
    checks = [json.loads(line) for line in done.out.splitlines()]
    assert {check["name"] for check in checks} >= {"causality", "sdpa = eager", "cached = uncached"}
    assert [check["name"] for check in checks if check["passed"] is None][-1] == "golden values"
    assert sum(check["passed"] is True for check in checks) >= 7


def test_what_is_wrong_fails_and_is_named(inside, trained_run, monkeypatch):
    from handloom.model import attention

    real = attention.causal_mask
    monkeypatch.setattr(attention, "causal_mask", lambda T, S, device=None: real(T, S, device).logical_or(real(T, S).T))
    done = inside("verify", trained_run)
    assert done.returncode == 1
    assert "failed" in done.out


@pytest.mark.parametrize("what", ["scale", "epsilon"])
def test_a_change_in_the_arithmetic_is_noticed_against_transformers(trained_run, what):
    pytest.importorskip("transformers")
    from handloom.inspection.verify import verify

    lm = load(trained_run)
    if what == "scale":
        lm.model.blocks[0].attention.core.scale *= 1.5
    else:
        lm.model.final_norm.eps = 0.1
    checks = {check.name: check for check in verify(lm)}
    assert checks["ours = transformers"].passed is False
    assert ("final_norm" if what == "epsilon" else "blocks.0.attention") in checks["ours = transformers"].detail
    assert checks["export and import"].passed is True


def test_without_the_published_weights_their_values_are_not_checked(inside, trained_run):
    done = inside("verify", trained_run)
    assert done.returncode == 0
    row = " ".join(word for word in done.out.partition("golden values")[2].split() if word != "│")
    assert row.startswith("not checked weights absent: values are published for distilgpt2 and gpt2")
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_tolerance_of_nothing_fails(inside, trained_run):
    assert inside("verify", trained_run, "--tolerance", "0").returncode == 1


# --against


@pytest.fixture
def two(trained_run):
    """Two checkpoints of the run."""
    return [trained_run / "checkpoints" / f"step-0000000{step}" for step in (2, 4)]


def test_two_checkpoints_part_at_a_named_place(inside, two):
    done = inside("verify", two[0], "--against", two[1], "--text", "The quick fox")
    assert done.returncode == 1, done.err
    assert "16 of 16 weights are not the same to the bit" in " ".join(done.out.split())
    words = " ".join(done.out.split())
    assert "The first divergence is blocks.0.resid_pre, the sum of token and position embedding." in words
    assert "of the text (the first is 0), '" in words
    assert "There element [" in words
    assert len(done.out.splitlines()) < 40


def test_lines_fit_the_window(inside, trained_run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = inside("verify", trained_run, "--against", "bf16")
    assert done.returncode == 1
    assert max(map(len, done.out.splitlines())) <= 80


def test_the_same_in_json(inside, two):
    done = inside("verify", two[0], "--against", two[1], "--text", "The quick fox", "--json")
    assert done.returncode == 1
    (line,) = done.out.splitlines()
    found = json.loads(line)
    assert found["first"]["name"] == "blocks.0.resid_pre"
    token = found["first"]["token"]
    assert found["ids"][token["place"]] == token["id"]
    assert found["first"]["where"][1] == token["place"]
    assert found["first"]["worst"] == pytest.approx(abs(found["first"]["ours"] - found["first"]["theirs"]))
    assert [part["name"] for part in found["activations"]][-1] == "logits"
    assert found["weights"]["count"] == len(found["weights"]["differing"]) == 16


def test_what_is_no_number_is_valid_json_too(trained_run, capsys):
    from handloom.cli.verify import print_comparison
    from handloom.inspection.diff import compare_models

    lm = load(trained_run)
    lm.model.final_norm.weight.data[0] = float("nan")
    assert not print_comparison("a", "b", compare_models(lm, load(trained_run)), 1e-4, as_json=True)
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert found["first"]["name"] == "final_norm"
    assert (found["first"]["ours"], found["first"]["worst"]) == ("nan", "inf")


def test_a_run_and_its_export_do_not_part(inside, trained_run, tmp_path):
    assert inside("export", trained_run, tmp_path / "models" / "fox", "--to", "hf").returncode == 0
    done = inside("verify", trained_run, "--against", "fox", "--tolerance", "1e-6")  # by its name
    assert done.returncode == 0, done.out + done.err
    assert "All 16 weights that both have are the same to the bit." in done.out
    assert "Nothing differs by more than 1e-06" in done.out


def test_a_text_can_come_from_a_file(inside, two, tmp_path):
    (tmp_path / "text.txt").write_text("The fox, é", encoding="utf-8")
    by_file = inside("verify", two[0], "--against", two[1], "--text-file", tmp_path / "text.txt", "--json")
    reference = inside("verify", two[0], "--against", two[1], "--text", "The fox, é", "--json")
    assert by_file.out == reference.out
    assert json.loads(by_file.out)["activations"]


def test_brackets_in_a_name_and_in_tokens_are_printed_as_they_are(inside, two, tmp_path):
    named = tmp_path / "[bold]x"
    named.symlink_to(two[0])
    done = inside("verify", named, "--against", two[1], "--text", "[red][/x]")
    assert done.returncode == 1, done.err
    assert "[bold]x" in done.out.replace("\n", "")


def test_the_quality_of_a_precision_is_a_row(inside, trained_run):
    result = inside("verify", trained_run, "--precision", "int4", "--json")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["name"] for row in rows if " within " in row["name"]] == ["int4 within 1 %"]
    assert (result.returncode == 0) == all(row["passed"] is not False for row in rows)
    refused = inside("verify", trained_run, "--precision", "int4", "--against", "bf16")
    assert refused.returncode == 2
