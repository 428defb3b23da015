"""The published weights themselves: what no stand-in with random weights can show.

    HANDLOOM_TEST_WEIGHTS=~/.local/share/handloom/models python -m pytest -m weights

names a models folder, as `handloom pull` fills it. Only what lies there is tested; nothing is fetched.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from handloom.checkpoints.model_store import PLAIN_NAMES
from handloom.inspection import activations, golden
from handloom.inspection.check import TOLERANCE
from handloom.inspection.verify import verify
from handloom.loading import load
from handloom.model.config import PRESETS, GPTConfig

VARIABLE = "HANDLOOM_TEST_WEIGHTS"
# Read now: each test has a home of its own.
CONFIGURED = Path(os.environ[VARIABLE]).expanduser().resolve() if os.environ.get(VARIABLE) else None
SHAPES: dict[str, GPTConfig] = {
    **{name: PRESETS[name] for name in PLAIN_NAMES if name in PRESETS},
    "distilgpt2": GPTConfig(layers=6),
}
pytestmark = pytest.mark.weights


@pytest.fixture(scope="module", params=PLAIN_NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name):
    """Where a published model lies in the configured folder, whichever of its names it was pulled by."""
    if CONFIGURED is None:
        pytest.skip(f"{VARIABLE} names no models folder (see CONTRIBUTING.md)")
    if not CONFIGURED.is_dir():
        pytest.fail(f"{VARIABLE} is {CONFIGURED}, which is no folder")
    for known in (name, PLAIN_NAMES[name].replace("/", "--")):
        if (CONFIGURED / known / "config.json").is_file():
            return CONFIGURED / known
    pytest.skip(f"weights absent: there is no {name} in {CONFIGURED}")


@pytest.fixture(scope="module")
def lm(folder):
    return load(folder)


def test_it_has_the_shape_that_is_known(name, lm):
    same = (
        "vocab_size",
        "context_length",
        "layers",
        "heads",
        "embed_dim",
        "feedforward_dim",
        "activation",
        "tie_embeddings",
    )
    assert [getattr(lm.config, field) for field in same] == [getattr(SHAPES[name], field) for field in same]
    assert lm.tokenizer.fingerprint == golden.GPT2_FINGERPRINT


def test_every_check_passes(lm):
    done = list(verify(lm))
    failed = {check.name: check.detail for check in done if check.passed is False}
    assert failed == {}
    assert {check.name for check in done if check.passed} >= {"ours = transformers", "export and import"}


def test_published_values_are_met(name, folder, lm):
    if golden.published_name(folder) is None:
        pytest.skip(f"no value is published for {name}")
    with torch.no_grad():
        done = [make() for _, make in golden.golden(lm)]
    assert len(done) >= 2
    assert [detail for passed, detail in done if passed is not True] == []


def test_scores_and_a_greedy_text_are_those_of_transformers(folder, lm):
    pytest.importorskip("transformers")
    theirs = activations.reference(folder)
    ids = torch.tensor([golden.shakespeare_ids(lm.tokenizer)])  # (1, 257)
    with torch.no_grad():
        (scores,) = activations.compare({"logits": lm.model(ids)}, {"logits": theirs(ids).logits})
    assert not scores.exceeds(TOLERANCE)
    prompt = torch.tensor([lm.tokenizer.encode("The meaning of life is")])
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=60, do_sample=False, pad_token_id=50256
    )[0, prompt.shape[1] :].tolist()
    text = lm.generate("The meaning of life is", max_new_tokens=60, temperature=0)
    assert text == lm.tokenizer.decode(token for token in expected if token != 50256)


def test_the_command_line_knows_it_by_its_name(folder, monkeypatch, capsys):
    from handloom.cli.main import main

    monkeypatch.setenv("HANDLOOM_MODELS", str(folder.parent))
    name = folder.name.replace("--", "/")
    with pytest.raises(SystemExit) as left:
        main(["generate", "The dog", "--model", name, "--max-new-tokens", "5", "--temperature", "0"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("The dog")
