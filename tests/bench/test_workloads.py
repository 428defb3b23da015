"""What is measured, at the smallest sizes, in this process; and the report of a whole run in processes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from handloom.bench import kinds, report, workloads
from handloom.bench.models import weight_bytes
from handloom.bench.worker import prepare
from handloom.errors import ConfigError, HandloomError
from handloom.hardware.machine import machine
from handloom.model.config import GPTConfig, preset
from handloom.model.gpt import GPT
from handloom.model.summary import parameter_count
from handloom.tuned import is_preset

SMALL = {"model": "nano", "rounds": 1, "least_seconds": 0}
SIZES = {
    "decode": {"prompt_tokens": 4, "new_tokens": 3},
    "prefill": {"prompt_tokens": 8},
    "batch": {"prompt_tokens": 4, "new_tokens": 3, "streams": 2},
    "train": {"batch_size": 2, "context_length": 8},
    "lora": {"batch_size": 2, "context_length": 8, "rank": 2},
}
TOKENS = {"decode": 2, "prefill": 8, "batch": 6, "train": 16, "lora": 16}


@pytest.fixture
def prepared(tmp_path):
    def make(kind, precision="fp32"):
        spec = {"kind": kind, "settings": {**SMALL, **SIZES[kind]}, "precision": precision}
        return prepare({**spec, "reference": str(tmp_path / "reference")})

    return make


@pytest.mark.parametrize("kind", SIZES)
def test_a_round_does_its_work_and_agrees_with_itself(kind, prepared, tmp_path):
    reference, facts = prepared(kind)
    assert facts["parameters"] >= parameter_count(preset("nano"))
    assert reference.agreement(tmp_path / "reference", True) is None
    done = reference.round(0)
    assert done.tokens == TOKENS[kind]
    assert done.seconds == pytest.approx(sum(done.each))
    assert done.seconds > 0
    again, _ = prepared(kind)
    found = again.agreement(tmp_path / "reference", False)
    assert found.pop("same_token", 1.0) == 1.0
    assert all(abs(value) < 1e-5 for value in found.values()), found
    assert len(reference.facts) == 1


@pytest.mark.parametrize("kind", ["decode", "batch", "train"])
def test_other_arithmetic_differs_a_little(kind, prepared, tmp_path, monkeypatch):
    """In bfloat16, wherever it is computed; emulated it is slow, and right."""
    monkeypatch.setattr("handloom.quantization.precision.has_native_bf16", lambda: True)
    prepared(kind)[0].agreement(tmp_path / "reference", True)
    found = prepared(kind, "bf16")[0].agreement(tmp_path / "reference", False)
    assert 0 < max(abs(value) for name, value in found.items() if name != "same_token") < 0.05


def test_a_round_repeats_its_work_until_it_is_long_enough():
    seconds = iter([0.2, 0.2, 0.2, 0.2])

    def once(done):
        done.seconds += next(seconds)
        done.tokens += 1

    assert workloads.Workload(once, lambda file, first: None, {}).round(0.5).tokens == 3


def test_the_difference_of_tables_of_log_probabilities():
    reference = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log()
    other = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]).log()
    found = workloads.compare(reference, other)
    assert found["same_token"] == 0.5
    assert found["largest_logprob_difference"] == pytest.approx(0.6931, abs=1e-4)
    assert found["mean_logprob_difference"] == pytest.approx(0.3466, abs=1e-4)
    # KL of the first row: 0.5 ln 2 + 0.25 ln 0.5 = 0.1733; over two rows 0.0866.
    assert found["relative_perplexity"] == pytest.approx(0.0905, abs=1e-4)
    assert set(workloads.compare(reference, reference).values()) == {0.0, 1.0}


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_that_a_token_reads_are_matrices_biases_and_the_head(tied):
    config = GPTConfig(300, 16, 1, 2, 8, tie_embeddings=tied)
    tables = config.context_length * 8
    count = parameter_count(config) - tables - (0 if tied else 300 * 8)
    assert weight_bytes(GPT(config)) == 4 * count


def test_operations_are_twice_the_weights_of_the_matrices_and_attention():
    config = GPTConfig(300, 64, 2, 2, 8)
    with_logits = workloads.operations(config, 10, logits=True)
    assert with_logits - workloads.operations(config, 10) == pytest.approx(2 * 300 * 8 * 0.9)
    assert with_logits > 2 * (2 * 12 * 8 * 8 + 300 * 8)


@pytest.mark.parametrize(
    ("settings", "context", "expected"),
    [
        (kinds.Decode(), 1024, (32, 128)),
        (kinds.Decode(), 128, (32, 96)),
        (kinds.Decode(prompt_tokens=500), 256, (64, 128)),
        (kinds.Decode(), 4, (1, 3)),
    ],
)
def test_work_fits_the_context(settings, context, expected):
    fitted = settings.fitted(context)
    assert (fitted.prompt_tokens, fitted.new_tokens) == expected
    assert sum(expected) <= max(context, 160)


def test_other_work_fits_the_context():
    assert kinds.Prefill().fitted(128).prompt_tokens == 127
    assert kinds.LoRA().fitted(128).context_length == 128


def test_rows_are_fp32_and_what_was_asked_for(monkeypatch):
    assert report.rows_of(kinds.Decode(precision=("int4", "int8"))) == ["fp32", "int8", "int4"]
    assert report.rows_of(kinds.Decode(precision=("fp32",))) == ["fp32"]
    monkeypatch.setattr("handloom.runtime.has_native_bf16", lambda: False)
    assert report.rows_of(kinds.Train()) == ["fp32"]
    monkeypatch.setattr("handloom.native.library.available", lambda: None)
    assert report.rows_of(kinds.Decode()) == ["fp32"]


def test_a_precision_that_is_none_of_the_kind():
    with pytest.raises(ConfigError, match="Did you mean 'int8'"):
        kinds.Decode(precision=("int9",))
    with pytest.raises(ConfigError, match=r"train has no precision 'int8'\. There are: fp32, bf16"):
        kinds.Train(precision=("int8",))


def test_a_preset_is_random_unless_a_model_on_disk_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_preset("nano")
    assert not is_preset("runs/nano")
    (tmp_path / "nano").mkdir()
    assert not is_preset("nano")


SCHEMA = {
    "kind": str,
    "weights": str,
    "settings": dict,
    "parameters": int,
    "limit": str,
    "limits": dict,
    "machine": dict,
    "rows": list,
}
ROW = {
    "precision": str,
    "backend": str,
    "tokens_per_second": float,
    "best_tokens_per_second": float,
    "median_ms": float,
    "p95_ms": float,
    "peak_memory_bytes": int,
    "load_seconds": float,
    "agreement": (dict, type(None)),
    "rounds": int,
    "repeated_rounds": int,
    "busy_rounds": int,
    "share_of_limit": float,
}


def test_the_json_of_a_run_in_processes(monkeypatch):
    monkeypatch.setattr(report.speed, "read_bandwidth", lambda cache: 10e9)
    turns = []
    settings = kinds.Decode(precision=("fp32",), threads=1, **SMALL, **SIZES["decode"])
    found = json.loads(json.dumps(report.run(settings, turns.append, turns.append)))
    assert turns == ["start", "fp32"]
    assert {name: type(value) for name, value in found.items()} == SCHEMA
    (row,) = found["rows"]
    assert list(row) == list(ROW)
    assert all(isinstance(row[name], kind) for name, kind in ROW.items())
    assert found["limits"] == {"read_bandwidth": 10e9}
    weights = weight_bytes(GPT(preset("nano")))
    assert row["share_of_limit"] == pytest.approx(row["tokens_per_second"] * weights / 10e9)
    assert {"processor", "instructions", "granted", "torch"} - {"granted"} <= set(found["machine"])
    assert set(dataclasses.asdict(machine())) <= set(found["machine"])


def test_a_process_that_ends_is_an_error(monkeypatch):
    monkeypatch.setattr("handloom.bench.rounds.WORKER", "handloom.no_such_module")
    with pytest.raises(HandloomError, match="The process that measured fp32 ended with code 1"):
        report.run(kinds.Decode(precision=("fp32",), threads=1, **SMALL), print)
