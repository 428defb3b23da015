"""handloom verify: passes a sound model, and names what is wrong with another."""

from __future__ import annotations

import json

import pytest

from handloom.loading import load


def test_a_sound_run_passes(inside, trained_run):
    done = inside("verify", trained_run, "--json")
    assert done.returncode == 0, done.out + done.err
    checks = [json.loads(line) for line in done.out.splitlines()]
    assert {check["name"] for check in checks} >= {"causality", "fused = explicit", "cached = uncached"}
    assert [check["name"] for check in checks if check["passed"] is None][-1] == "golden values"
    assert sum(check["passed"] is True for check in checks) >= 7


def test_what_is_wrong_fails_and_is_named(inside, trained_run, monkeypatch):
    from handloom.model import attention

    real = attention.causal_mask
    monkeypatch.setattr(
        attention, "causal_mask", lambda T, S, device=None: real(T, S, device).logical_or(real(T, S).T)
    )
    done = inside("verify", trained_run)
    assert done.returncode == 1
    assert "failed" in done.out


@pytest.mark.parametrize("what", ["scale", "epsilon"])
def test_a_change_in_the_arithmetic_is_noticed_against_transformers(trained_run, what):
    pytest.importorskip("transformers")
    from handloom.inspection.verify import verify

    lm = load(trained_run)
    if what == "scale":
        lm.model.blocks[0].attention.scale *= 1.5
    else:
        lm.model.final_norm.eps = 0.1
    checks = {check.name: check for check in verify(lm)}
    assert checks["ours = transformers"].passed is False
    assert ("final_norm" if what == "epsilon" else "blocks.0.attention") in checks[
        "ours = transformers"
    ].detail
    assert checks["export and import"].passed is True
