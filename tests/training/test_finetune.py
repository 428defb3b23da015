"""Tuning a model that is there: in the same loop, to the last bit, with what is frozen left alone."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from handloom.checkpoints import native, peft
from handloom.errors import CheckpointError, ConfigError
from handloom.finetuning import lora
from handloom.loading import find_model, load
from handloom.training import run
from handloom.training.activation_cache import ActivationStore, CachedBackbone
from handloom.training.config import FinetuneConfig
from handloom.training.finetune_setup import TOKEN_CHOICE_BATCHES, finetune_setup
from handloom.training.metrics_log import read_metrics
from handloom.training.objective import TrainStep
from handloom.training.progress import Reporter

METHODS = ("full", "lora", "norms", "norms+head", "head", "bias", "last:1")


@pytest.fixture(scope="session")
def base(tmp_path_factory, corpus_folder):
    """A run of a few steps, to go on from."""
    from handloom.training.config import TrainConfig

    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDLOOM_CACHE", str(folder / "cache"))
        config = TrainConfig(
            data=(str(corpus_folder),), vocab_size=300, layers=2, heads=2, embed_dim=16, context_length=64, steps=30,
            batch_size=8, precision="fp32", threads=1, sample_every=0, keep_checkpoints=1,
        )  # fmt: skip
        run.begin(folder / "run", config)
    return folder / "run"


@pytest.fixture
def poems(tmp_path):
    """Other text: the same words, the other way round."""
    text = "done is cloth the until under over red and blue of thread a weaves loom the"
    words = text.split()
    folder = tmp_path / "poems"
    folder.mkdir()
    for i in range(20):
        line = " ".join(words[(i + j * (1 + i % 2)) % len(words)] for j in range(60))
        (folder / f"{i}.txt").write_text(line, encoding="utf-8")
    return folder


@pytest.fixture
def tune(base, poems):
    """Settings of a tuning run; `tune(method=...)` changes some."""

    def make(**changes):
        settings = {
            "data": (str(poems),),
            "model": str(base),
            "context_length": 16,
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 0.01,
            "precision": "fp32",
            "threads": 1,
            "rank": 2,
            "sample_every": 0,
            "eval_every": 3,
            "checkpoint_every": 3,
        }
        return FinetuneConfig(**{**settings, **changes})

    return make


def final_state(folder):
    """Every byte of the newest checkpoint's weights and optimizer."""
    checkpoint, _ = native.latest(folder)
    names = ("model.safetensors", peft.WEIGHTS, "optimizer.safetensors")
    return {n: (checkpoint.folder / n).read_bytes() for n in names if (checkpoint.folder / n).exists()}


def losses(folder):
    return [(r["step"], r["loss"]) for r in read_metrics(folder) if r["kind"] == "train"]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_changes_what_it_says_and_nothing_else(tmp_path, tune, base, method):
    summary = run.begin(tmp_path / "run", tune(method=method, steps=25, eval_every=25))
    validations = [r["loss"] for r in read_metrics(tmp_path / "run") if r["kind"] == "validation"]
    assert validations[-1] < validations[0]
    before = find_model(base).load_model().state_dict()
    after = find_model(tmp_path / "run").load_model().state_dict()
    changed = {name for name in before if not after[name].equal(before[name])}
    embedding = {"embedding.token_embedding.weight"}
    norms = {name for name in before if "norm" in name}
    matrices = {name for name in before if name.startswith("blocks") and before[name].ndim == 2}
    expected = {
        "full": set(before),
        "lora": matrices,
        "norms": norms,
        "norms+head": norms | embedding,
        "head": embedding,
        "bias": {name for name in before if name.endswith(".bias")},
        "last:1": {name for name in before if name.startswith(("blocks.1.", "final_norm"))},
    }[method]
    unmoved = {name for name in before if before[name].ndim == 1 and "qkv.bias" in name}  # keys' biases may stay
    assert changed <= expected
    assert expected - changed <= unmoved
    assert summary["method"] == method
    assert summary["trained_parameters"] == (
        sum(t.numel() for n, t in load_file(native.latest(tmp_path / "run")[0].folder / peft.WEIGHTS).items())
        if method == "lora"
        else sum(before[name].numel() for name in expected)
    )


def test_the_tokens_whose_rows_learn_are_those_that_the_data_asks_most_of(tmp_path, tune, base):
    summary = run.begin(tmp_path / "run", tune(trainable_tokens=5, micro_batch_size=2, steps=20))
    checkpoint, _ = native.latest(tmp_path / "run")
    tokens = list(peft.open_adapter(checkpoint.folder).tokens)
    before = find_model(base).load_model()
    weight = before.embedding.token_embedding.weight
    work = finetune_setup(tune(method="full"), tmp_path, Reporter())
    for step in range(TOKEN_CHOICE_BATCHES):  # in one piece each, by the plain loss
        batch = work.objective.batch(step)
        logits = before(batch["inputs"])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten()).backward()
    longest = weight.grad.norm(dim=1).topk(5).indices
    assert tokens == sorted(longest.tolist())
    after = find_model(tmp_path / "run").load_model().embedding.token_embedding.weight
    assert (after != weight).any(dim=1).nonzero()[:, 0].tolist() == tokens
    assert summary["trained_parameters"] == sum(t.numel() for t in load_file(checkpoint.folder / peft.WEIGHTS).values())
    plain = run.begin(tmp_path / "plain", tune(steps=20))
    assert summary["val_loss"] < plain["val_loss"]  # with words it hardly knows, it helps
    beside = load(base, adapter=tmp_path / "run").model
    assert torch.allclose(
        beside(batch["inputs"]), find_model(tmp_path / "run").load_model()(batch["inputs"]), atol=1e-5
    )


def test_rows_for_more_tokens_than_there_are_and_without_lora_are_refused(tmp_path, tune):
    with pytest.raises(ConfigError, match="trainable_tokens is 301, and the vocabulary has 300 tokens"):
        run.begin(tmp_path / "run", tune(trainable_tokens=301))
    with pytest.raises(ConfigError, match="trainable_tokens is 5, and the method is norms"):
        FinetuneConfig.merged(None, {"data": ("x",), "method": "norms", "trainable_tokens": 5})


def test_with_an_untied_head_the_embedding_stays(tmp_path, tune, base):
    run.begin(tmp_path / "run", tune(method="norms+head", untie_embeddings=True))
    model = find_model(tmp_path / "run").load_model()
    before = find_model(base).load_model()
    assert model.embedding.token_embedding.weight.equal(before.embedding.token_embedding.weight)
    assert not model.lm_head.weight.equal(before.lm_head.weight)
    assert not model.config.tie_embeddings


def test_a_tied_head_that_learns_is_told(tmp_path, tune):
    class Hears(Reporter):
        def __init__(self):
            self.ledgers = []

        def memory_estimate(self, ledger):
            self.ledgers.append(ledger)

    reporter = Hears()
    run.begin(tmp_path / "run", tune(method="head", steps=1), reporter)
    (ledger,) = reporter.ledgers
    assert "the head is tied to it" in ledger.chosen.remark


@pytest.mark.parametrize(
    ("settings", "stop"),
    [
        ({"method": "lora", "lora_dropout": 0.2}, 4),
        ({"method": "lora", "trainable_tokens": 9}, 4),
        ({"method": "lora", "trainable_tokens": 9, "precision": "bf16", "threads": 2}, 1),
        ({"method": "lora", "use_dora": True, "precision": "bf16", "threads": 2}, 1),
        ({"method": "lora", "dropout": 0.1, "micro_batch_size": 2, "optimizer": "muon"}, 5),
        ({"method": "last:1", "dropout": 0.1}, 4),
        ({"method": "head", "untie_embeddings": True, "precision": "bf16"}, 3),
        ({"method": "full", "precision": "bf16"}, 2),
        ({"train_params": ("*.bias", "embedding.position_embedding.*")}, 4),
    ],
    ids=str,
)
def test_stopped_and_resumed_equals_never_stopped(tmp_path, tune, settings, stop):
    settings = {"steps": 10, "eval_every": 4, **settings}
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    run.begin(straight, tune(**settings))
    assert not run.begin(halted, tune(**settings), stop_after=stop)["finished"]
    assert run.resume(halted)["finished"]
    assert final_state(halted) == final_state(straight)
    assert losses(halted) == losses(straight)


@pytest.mark.parametrize("method", ["last:1", "head"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_remembering_frozen_blocks_changes_no_bit(tmp_path, tune, monkeypatch, method, precision):
    asked = {}
    below = CachedBackbone._lower

    def counted(self, *rows):
        asked.setdefault(id(self), self)
        return below(self, *rows)

    monkeypatch.setattr(CachedBackbone, "_lower", counted)
    settings = {"method": method, "untie_embeddings": True, "steps": 40, "dropout": 0.1, "precision": precision}
    run.begin(tmp_path / "remembered", tune(**settings, eval_every=10))
    (reader,) = asked.values()
    rows = {r["step"]: r for r in read_metrics(tmp_path / "remembered")}
    assert rows
    assert len(reader.store) == reader.computed < 40 * 4  # each row was computed once, though it came several times
    run.begin(tmp_path / "anew", tune(**settings, eval_every=10, cache_activations=False))
    assert final_state(tmp_path / "remembered") == final_state(tmp_path / "anew")
    assert losses(tmp_path / "remembered") == losses(tmp_path / "anew")


def test_rows_are_given_back_as_they_were_and_a_full_disk_is_no_reason_to_stop(tmp_path):
    row = torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(0))
    rows = ActivationStore(tmp_path, limit=250)
    rows.put(b"a", row)
    rows.put(b"b", row + 1)
    rows.put(b"c", row + 2)  # no room
    assert rows.get(b"a", row.shape).equal(row)
    assert rows.get(b"b", row.shape).equal(row + 1)
    assert rows.get(b"c", row.shape) is None
    assert len(rows) == 2
    assert not list(tmp_path.iterdir())  # the file has no name


def test_frozen_rows_are_what_the_model_says(base):
    model = find_model(base).load_model()
    reader = CachedBackbone(model, 1, None)
    ids = torch.arange(32).view(2, 16) % 300
    with torch.no_grad():
        assert torch.allclose(reader.hidden(ids), model.hidden(ids), atol=1e-6)
        segments = torch.arange(32).view(2, 16) // 8
        assert torch.allclose(reader.hidden(ids, segments=segments), model.hidden(ids, segment_ids=segments), atol=1e-6)
    TrainStep(model, None, cache=reader).train()
    assert model.blocks[1].training
    assert not model.blocks[0].training
    assert not model.embedding.training


def test_an_adapter_lies_beside_its_model_and_no_other(tmp_path, tune, base, monkeypatch):
    run.begin(tmp_path / "tuned", tune(steps=3))
    ids = torch.arange(10)[None]
    with torch.no_grad():
        whole = load(tmp_path / "tuned").model(ids)
        beside = load(base, adapter=tmp_path / "tuned").model(ids)
        half = load(base, adapter=f"{tmp_path / 'tuned'}:0.5").model(ids)
        plain = load(base).model(ids)
        exact = load(base, adapter={str(tmp_path / "tuned"): 0.0}).model(ids)
    assert torch.allclose(whole, beside, atol=1e-5)
    assert exact.equal(plain)
    assert 0 < (half - plain).abs().max() < (beside - plain).abs().max()
    run.begin(tmp_path / "other", tune(steps=3, method="full"))
    with pytest.raises(CheckpointError, match=r"was trained on .*base.* different\. Use its base model"):
        load(tmp_path / "other", adapter=tmp_path / "tuned")
    with pytest.raises(CheckpointError, match="is a whole model, not an adapter"):
        load(base, adapter=tmp_path / "other")


def test_adapters_stack_and_swap_on_a_loaded_model(tmp_path, tune, base):
    for name, seed in (("a", 1), ("b", 2)):
        run.begin(tmp_path / name, tune(steps=3, seed=seed))
    ids = torch.arange(10)[None]
    lm = load(base, adapter=[tmp_path / "a", f"{tmp_path / 'b'}:0.5"])
    assert lora.adapters(lm.model) == {"a": 1.0, "b": 0.5}
    with torch.no_grad():
        lora.set_adapters(lm.model, {"a": 1.0})
        assert torch.allclose(lm.model(ids), load(tmp_path / "a").model(ids), atol=1e-5)
        lora.set_adapters(lm.model, {"b": 1.0})
        assert torch.allclose(lm.model(ids), load(tmp_path / "b").model(ids), atol=1e-5)


def test_a_run_and_its_base_may_be_moved_together(tmp_path, tune, base, monkeypatch):
    import shutil

    world = tmp_path / "world"
    shutil.copytree(base, world / "runs" / "base")
    monkeypatch.chdir(world)
    run.begin(world / "runs" / "tuned", tune(model="runs/base", steps=2))
    world.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path / "moved" / "runs" / "tuned").config.embed_dim == 16
    shutil.rmtree(tmp_path / "moved" / "runs" / "base")
    with pytest.raises(CheckpointError, match=r"base model runs/base of .* cannot be used"):
        load(tmp_path / "moved" / "runs" / "tuned")


def test_a_tuned_model_can_be_tuned_again(tmp_path, tune):
    run.begin(tmp_path / "first", tune(steps=3))
    run.begin(tmp_path / "second", tune(steps=3, model=str(tmp_path / "first"), seed=4))
    assert load(tmp_path / "second").config.embed_dim == 16


def test_epochs_and_what_else_is_left_open_are_decided_and_written_down(tmp_path, tune):
    run.begin(tmp_path / "run", tune(steps=None, epochs=2.0, learning_rate=None, batch_size=8))
    checkpoint, _ = native.latest(tmp_path / "run")
    settings = checkpoint.training["settings"]
    tokens = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))["train_tokens"]
    assert settings["steps"] == -(-2 * ((tokens - 2) // 16 + 1) // 8)
    assert settings["learning_rate"] == 1e-3
    assert settings["context_length"] == 16
    assert settings["micro_batch_size"] == 8


def test_settings_that_contradict_each_other_are_refused(tmp_path, tune):
    with pytest.raises(ConfigError, match="Both `method` and `train_params`"):
        FinetuneConfig.merged(None, {"method": "lora", "train_params": ("*",), "data": ("x",)})
    with pytest.raises(ConfigError, match="method is 'last:0'; it must be one of full, lora"):
        tune(method="last:0")
    with pytest.raises(ConfigError, match="The method lora does not train the head"):
        tune(untie_embeddings=True)
    with pytest.raises(ConfigError, match="No data to finetune on"):
        tune(data=())
    with pytest.raises(ConfigError, match="last:9 trains 9 blocks"):
        run.begin(tmp_path / "run", tune(method="last:9"))
    with pytest.raises(ConfigError, match="context_length is 99, and the model's context length is 64"):
        run.begin(tmp_path / "run", tune(context_length=99))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def examples(tmp_path):
    """A file of examples for each task, small enough for a context of 64."""
    records = {
        "sft": [
            {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "ab"[i % 2] * 2}]}
            for i in range(24)
        ],
        "dpo": [{"prompt": f"{i} ", "chosen": "red", "rejected": "blue"} for i in range(24)],
        "classify": [{"text": f"{i} " + 3 * ("red " if i % 2 else "blue "), "label": "ab"[i % 2]} for i in range(60)],
    }
    for task, lines in records.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{task}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("task", ["sft", "dpo", "classify"])
@pytest.mark.parametrize("method", ["lora", "last:1", "full"])
def test_every_task_is_learned_by_every_method_and_goes_on_to_the_same_bits(tmp_path, tune, examples, task, method):
    settings = {
        "task": task, "data": (str(examples / f"{task}.jsonl"),), "method": method, "steps": 12, "context_length": None,
        "eval_every": 6, "batch_size": 8, "overlong": "truncate", "learning_rate": 0.02,
    }  # fmt: skip
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    summary = run.begin(straight, tune(**settings))
    validations = [r["loss"] for r in read_metrics(straight) if r["kind"] == "validation"]
    assert validations[-1] < validations[0]
    assert summary["task"] == task
    assert not run.begin(halted, tune(**settings), stop_after=5)["finished"]
    run.resume(halted)
    assert final_state(halted) == final_state(straight)
    assert losses(halted) == losses(straight)


def test_a_tuned_classifier_is_used_by_its_name(tmp_path, tune, examples):
    data = (str(examples / "classify.jsonl"),)
    summary = run.begin(
        tmp_path / "run",
        tune(task="classify", data=data, method="lora", steps=120, learning_rate=0.01, context_length=None),
    )
    assert summary["val_accuracy"] == 1.0
    assert load(tmp_path / "run").config.label_names == ("a", "b")
    named = [load(tmp_path / "run").classify(text).label for text in ("4 blue blue blue ", "5 red red red ")]
    assert named == ["a", "b"]


def test_a_run_on_examples_names_the_command_that_checks_them(tmp_path, tune, examples):
    class Hears(Reporter):
        def __init__(self):
            self.notes = []

        def note(self, text):
            self.notes.append(text)

    for task in ("text", "sft"):
        reporter = Hears()
        data = {} if task == "text" else {"data": (str(examples / "sft.jsonl"),), "context_length": None}
        run.begin(tmp_path / task, tune(task=task, steps=1, **data), reporter)
        assert any("`handloom data check`" in note for note in reporter.notes) == (task == "sft")


@pytest.mark.parametrize("task", ["text", "dpo"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_goes_on_with_the_model_it_began_with_and_no_other(tmp_path, tune, base, examples, task, method):
    """A run went on with whatever lay where its model had been, and called that its base from then on."""
    model = shutil.copytree(base, tmp_path / "model")
    data = {} if task == "text" else {"data": (str(examples / "dpo.jsonl"),), "context_length": None}
    settings = tune(model=str(model), task=task, method=method, **data)
    run.begin(tmp_path / "run", settings, stop_after=3)
    run.begin(tmp_path / "other", tune(model=str(base), method="full"))
    shutil.rmtree(model)
    with pytest.raises(CheckpointError, match=r"The base model .* of .* cannot be used\. .*There is no model at"):
        run.resume(tmp_path / "run")
    shutil.copytree(tmp_path / "other", model)
    if (task, method) == ("text", "full"):  # it has nothing to do with the model any more
        run.resume(tmp_path / "run")
        return
    with pytest.raises(CheckpointError, match=r"step-00000030 of the run .* which is gone"):
        run.resume(tmp_path / "run")
    shutil.rmtree(model)
    shutil.copytree(base, model)
    assert run.resume(tmp_path / "run")["finished"]


def test_each_of_several_adapters_has_to_belong_to_the_model(tmp_path, tune, base):
    """Only the first was held against the model; the second may have been trained beside any other."""
    run.begin(tmp_path / "other", tune(steps=3, method="full"))
    run.begin(tmp_path / "mine", tune(steps=3))
    run.begin(tmp_path / "strange", tune(steps=3, model=str(tmp_path / "other")))
    with pytest.raises(CheckpointError, match=r"strange.* was trained on .*other"):
        load(base, adapter=[tmp_path / "mine", tmp_path / "strange"])
