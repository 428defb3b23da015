"""The loop: accumulation is one large batch, a run stopped anywhere goes on to the same bits, NaN stops it."""

from __future__ import annotations

import errno
import json
import math
import os
import re

import pytest
import torch

from handloom import runtime, storage
from handloom.checkpoints import native
from handloom.errors import CheckpointError, ConfigError, HandloomError
from handloom.model.block import Block
from handloom.model.gpt import GPT
from handloom.training import loop, run
from handloom.training.loop import DivergenceError, is_overfitting
from handloom.training.metrics_log import MetricsLogger, read_metrics
from handloom.training.progress import Reporter
from handloom.training.signals import StopRequest
from handloom.training.time_budget import StepTimer


def final_state(folder):
    """Every byte of the newest checkpoint's weights and optimizer."""
    checkpoint, _ = native.latest(folder)
    return {name: (checkpoint.folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


def losses(folder):
    return [(r["step"], r["loss"]) for r in read_metrics(folder) if r["kind"] == "train"]


def test_a_run_learns_and_leaves_what_it_promises(tmp_path, tiny):
    folder = tmp_path / "run"
    summary = run.begin(folder, tiny(steps=60, eval_every=20, sample_every=30, sample_tokens=5))
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.toml", "data.json", "metrics.jsonl", "loss.svg", "samples.md", "summary.json",
        "checkpoints", "tokenizer", "run.json",
    }  # fmt: skip
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == summary
    assert summary["finished"]
    for key in ("val_bits_per_byte", "train_seconds", "tokens_per_second", "parameters", "peak_memory_bytes"):
        assert summary[key] > 0
    validations = [r["loss"] for r in read_metrics(folder) if r["kind"] == "validation"]
    assert validations[0] == pytest.approx(math.log(300), rel=0.02)
    assert validations[-1] < 0.8 * validations[0]
    assert "## Step 30" in (folder / "samples.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("stop", "optimizer", "machine"),
    [
        (1, "adamw", {}),
        (8, "adamw", {"precision": "bf16"}),
        (5, "muon", {}),
        (8, "muon", {"precision": "bf16", "threads": 2}),
    ],
)
def test_stopped_and_resumed_equals_never_stopped(tmp_path, tiny, stop, optimizer, machine):
    settings = {"steps": 40, "batch_size": 8, "optimizer": optimizer, "eval_every": 10, "checkpoint_every": 16}
    settings |= machine
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    run.begin(straight, tiny(**settings))
    assert not run.begin(halted, tiny(**settings), stop_after=stop)["finished"]
    assert run.resume(halted, stop_after=20 + stop)["steps"] == 20 + stop
    assert run.resume(halted)["finished"]
    assert final_state(halted) == final_state(straight)
    assert losses(halted) == losses(straight)
    tokens = json.loads((straight / "data.json").read_text(encoding="utf-8"))["train_tokens"]
    assert tokens / 16 + 1 < 40 * 8  # windows: the runs have crossed an epoch


def test_two_n_steps_equal_n_and_then_as_many_more(tmp_path, tiny):
    """The steps of a finished run may be raised; where the schedule does not look ahead, nothing differs."""
    straight, extended = tmp_path / "straight", tmp_path / "extended"
    run.begin(straight, tiny(steps=12, schedule="constant", warmup_steps=1))
    run.begin(extended, tiny(steps=6, schedule="constant", warmup_steps=1))
    run.resume(extended, changes={"steps": 12})
    assert final_state(extended) == final_state(straight)


def test_a_stop_in_the_middle_of_accumulation_changes_nothing(tmp_path, tiny, monkeypatch):
    settings = {"steps": 6, "batch_size": 8, "micro_batch_size": 2}
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    run.begin(straight, tiny(**settings))
    passes = []
    reseed = loop.reseed

    def stop_at_the_third_pass_of_step_two(seed, step, micro_step):
        passes.append((step, micro_step))
        if (step, micro_step) == (2, 2):
            requests[0].request()
        reseed(seed, step, micro_step)

    requests: list[StopRequest] = []
    init = StopRequest.__init__
    monkeypatch.setattr(StopRequest, "__init__", lambda self, *heard: (init(self, *heard), requests.append(self))[0])
    monkeypatch.setattr(loop, "reseed", stop_at_the_third_pass_of_step_two)
    summary = run.begin(halted, tiny(**settings))
    monkeypatch.undo()
    assert passes[-1] == (2, 2)
    assert summary["steps"] == 2
    run.resume(halted)
    assert final_state(halted) == final_state(straight)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, tiny):
    """One step over 8 sequences, in 1, 2 and 8 passes, without dropout: the same gradient but for rounding."""
    for micro in (8, 4, 1):
        folder = tmp_path / str(micro)
        run.begin(folder, tiny(steps=1, batch_size=8, micro_batch_size=micro, dropout=0.0, optimizer="adamw"))
    records = [read_metrics(tmp_path / str(m)) for m in (8, 4, 1)]
    norms = [next(r["gradient_norm"] for r in rs if r["kind"] == "train") for rs in records]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)


def test_accumulation_is_normalized_by_tokens_not_by_passes(tmp_path, tiny, monkeypatch):
    """Passes with unequal numbers of targets: the gradient is that of the mean over all tokens."""
    from handloom.data.windows import Windows
    from handloom.model.loss import IGNORE_INDEX, next_token_loss

    batch = Windows.batch

    def uneven(self, step):
        inputs, targets = batch(self, step)
        targets = targets.copy()
        targets[0, 3:] = IGNORE_INDEX
        targets[3, 1:] = IGNORE_INDEX
        return inputs, targets

    monkeypatch.setattr(Windows, "batch", uneven)
    found = {}

    def keep(self, loss):
        found["gradient"] = torch.cat([p.grad.flatten() for p in self.optimizer.parameters.values()])
        found["model"] = self.model
        found["batch"] = self.objective.batch(0).values()
        return 1.0

    monkeypatch.setattr(loop.Trainer, "_clip_gradients", keep)
    config = tiny(steps=1, micro_batch_size=2, dropout=0.0)
    run.begin(tmp_path / "run", config)
    x, y = found["batch"]
    model = GPT(found["model"].config, seed=0)
    total, count = next_token_loss(model.hidden(x), model.lm_head, y)
    (total / count).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(found["gradient"], expected, atol=1e-6, rtol=1e-4)


def test_minutes_choose_the_steps_correct_them_and_a_resumed_run_keeps_them(tmp_path, tiny, monkeypatch):
    folder = tmp_path / "run"
    config = tiny(steps=None, minutes=10.0, eval_every=None, checkpoint_every=None)
    plans = {3: 30, 17: 24}
    monkeypatch.setattr(StepTimer, "plan", lambda self, minutes, step, total: plans.get(step))
    told: list[int] = []

    class Listener(Reporter):
        def planned(self, steps, step_seconds, minutes):
            told.append(steps)

    assert run.begin(folder, config, Listener(), stop_after=20)["total_steps"] == 24
    summary = run.resume(folder, Listener())
    assert told == [30, 24]
    assert (summary["steps"], summary["finished"]) == (24, True)
    assert summary["predicted_seconds"] > 0


def test_nan_stops_at_once_and_names_step_and_parameter(tmp_path, tiny, monkeypatch):
    folder = tmp_path / "run"
    step = loop.Trainer.step

    def poison(self, wish):
        if self.progress.step == 5:
            with torch.no_grad():
                self.model.blocks[1].feedforward.up.weight[0, 0] = math.nan
        return step(self, wish)

    monkeypatch.setattr(loop.Trainer, "step", poison)
    with pytest.raises(DivergenceError, match=r"step 5 .*blocks\.1\.feedforward\.up\.weight.*step-00000004"):
        run.begin(folder, tiny())
    assert native.latest(folder)[0].training["progress"]["step"] == 4
    monkeypatch.undo()
    assert run.resume(folder)["finished"]


def test_a_run_without_a_checkpoint_is_not_sent_from_resume_to_begin_and_back(tmp_path, tiny):
    """Its process was killed before the first save: each message names a way that works."""
    import shutil

    folder = tmp_path / "run"
    run.begin(folder, tiny(), stop_after=1)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(CheckpointError, match="not have a checkpoint yet") as resumed:
        run.resume(folder)
    with pytest.raises(ConfigError, match="already holds a run") as begun:
        run.begin(folder, tiny())
    for told in (resumed, begun):
        assert re.search("--overwrite|`overwrite=true`", told.value.remedy)
        assert "resume" not in told.value.remedy
    assert run.begin(folder, tiny(), overwrite=True)["finished"]


def test_a_run_that_fails_before_its_first_checkpoint_can_be_begun_again_as_it_was(tmp_path, tiny, monkeypatch):
    def full(folder, *_, **__):
        raise storage.explain_os_error(OSError(errno.ENOSPC, ""), folder)

    monkeypatch.setattr(native, "save", full)
    with pytest.raises(CheckpointError, match=r"became full.*use the same command again"):
        run.begin(tmp_path / "run", tiny())
    monkeypatch.undo()
    assert run.begin(tmp_path / "run", tiny())["finished"]


def test_a_model_that_was_no_number_before_the_first_step_is_told_so(tmp_path, tiny, monkeypatch):
    """No learning rate is to blame, and no flag of training helps."""
    from handloom.training import setup

    def poisoned(shape, seed):
        model = GPT(shape, seed)
        with torch.no_grad():
            model.blocks[1].feedforward.up.weight[0, 0] = math.nan
        return model

    monkeypatch.setattr(setup, "GPT", poisoned)
    with pytest.raises(DivergenceError, match=r"step 0 .*parameter blocks\.1\.feedforward\.up\.weight") as told:
        run.begin(tmp_path / "run", tiny())
    assert "No step was taken yet" in told.value.remedy
    assert "learning_rate" not in told.value.remedy


def test_without_a_limit_the_gradient_is_not_told_to_have_a_lower_one(tmp_path, tiny, monkeypatch):
    step = loop.Trainer.step

    def poison(self, wish):
        if self.progress.step == 2:
            with torch.no_grad():
                self.model.blocks[0].feedforward.up.weight[0, 0] = math.inf
        return step(self, wish)

    monkeypatch.setattr(loop.Trainer, "step", poison)
    with pytest.raises(DivergenceError, match="or set `max_grad_norm=1`"):
        run.begin(tmp_path / "run", tiny(max_grad_norm=0.0))


def test_a_flipped_bit_falls_back_to_the_checkpoint_before(tmp_path, tiny):
    straight, folder = tmp_path / "straight", tmp_path / "run"
    run.begin(straight, tiny())
    run.begin(folder, tiny())
    newest = native.step_folder(folder, 8) / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    checkpoint, passed_over = native.latest(folder)
    assert checkpoint.folder.name == "step-00000004"
    assert "checksum" in passed_over[0].problem
    assert run.resume(folder)["finished"]
    assert final_state(folder) == final_state(straight)


def test_only_the_last_and_the_best_checkpoints_stay(tmp_path, tiny):
    folder = tmp_path / "run"
    run.begin(folder, tiny(steps=20, checkpoint_every=2, eval_every=20, keep_checkpoints=3))
    assert native.steps(folder) == [16, 18, 20]


def test_a_run_is_not_overwritten_unless_asked(tmp_path, tiny):
    folder = tmp_path / "run"
    run.begin(folder, tiny(steps=2))
    with pytest.raises(ConfigError, match="already holds a run"):
        run.begin(folder, tiny(steps=2))
    run.begin(folder, tiny(steps=3), overwrite=True)
    assert native.steps(folder)[-1] == 3


def test_a_run_goes_on_only_with_its_own_text_and_settings(tmp_path, tiny, corpus_folder):
    import shutil

    text = tmp_path / "text"
    shutil.copytree(corpus_folder, text)
    folder = tmp_path / "run"
    run.begin(folder, tiny(data=(str(text),)), stop_after=3)
    with pytest.raises(ConfigError, match="learning_rate cannot change"):
        run.resume(folder, changes={"learning_rate": 1.0})
    with pytest.raises(ConfigError, match="has done 3 steps"):
        run.resume(folder, changes={"steps": 2})
    (text / "new.txt").write_text("something else entirely", encoding="utf-8")
    with pytest.raises(CheckpointError, match="has changed"):
        run.resume(folder)


def test_resuming_nothing_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="There is no run"):
        run.resume(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not have a checkpoint yet"):
        run.resume(tmp_path)


def test_memorization_is_told():
    assert is_overfitting(training=1.0, validation=2.0, best=1.9)
    assert not is_overfitting(training=1.0, validation=1.9, best=1.9)  # still at its best
    assert not is_overfitting(training=1.95, validation=2.0, best=1.9)  # not parted
    assert not is_overfitting(training=None, validation=2.0, best=1.0)


def test_weights_that_are_not_finite_are_never_saved(tmp_path, tiny, monkeypatch):
    """A step whose update overflows leaves finite gradients behind; the save after it must refuse."""
    folder = tmp_path / "run"
    step = loop.Trainer.step

    def overflow(self, wish):
        done = step(self, wish)
        if self.progress.step == 4:
            with torch.no_grad():
                self.model.final_norm.weight[0] = math.inf
        return done

    monkeypatch.setattr(loop.Trainer, "step", overflow)
    with pytest.raises(DivergenceError, match=r"At step 4 .*final_norm\.weight.*step-00000000"):
        run.begin(folder, tiny(eval_every=100))
    assert native.steps(folder) == [0]


def test_a_new_run_that_cannot_begin_costs_no_earlier_one(tmp_path, tiny):
    folder = tmp_path / "run"
    run.begin(folder, tiny(steps=2))
    with pytest.raises(HandloomError):
        run.begin(folder, tiny(data=(str(tmp_path / "nowhere.txt"),)), overwrite=True)
    assert native.steps(folder)[-1] == 2


def test_one_save_a_step_even_when_it_is_the_best(tmp_path, tiny, monkeypatch):
    saved = []
    save = native.save
    monkeypatch.setattr(
        native, "save", lambda folder, *rest, **more: (saved.append(folder.name), save(folder, *rest, **more))
    )
    run.begin(tmp_path / "run", tiny(steps=8, eval_every=2, checkpoint_every=4))
    assert len(saved) == len(set(saved))


def test_records_survive_strange_line_ends_and_a_torn_last_line(tmp_path):
    log = MetricsLogger(tmp_path)
    log.add("sample", 1, prompt="a", text="b\u2028c\x85d\x0be\r")
    log.add("train", 2, loss=1.0)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write('{"kind": "train", "step": 3, "text": "ä'.encode()[:-1])
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]
    assert [r["step"] for r in MetricsLogger(tmp_path, keep_until=1).records] == [1]


def test_memorizing_is_said_aloud(tmp_path, tiny, monkeypatch):
    warnings: list[str] = []

    class Listener(Reporter):
        def warning(self, text):
            warnings.append(text)

    monkeypatch.setattr(loop, "is_overfitting", lambda training, *_: training is not None)
    run.begin(tmp_path / "run", tiny(steps=4), Listener())
    assert "the model is overfitting" in warnings[-1]


def test_tensorboard_gets_the_same_numbers(tmp_path, tiny):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        run.begin(tmp_path / "run", tiny(steps=4, tensorboard=True))
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    shown = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert shown == [(step, pytest.approx(loss)) for step, loss in losses(tmp_path / "run")]


def test_a_run_from_a_pipe_goes_on_from_its_prepared_tokens(tmp_path, tiny, corpus_folder, monkeypatch):
    import io

    text = b"".join(path.read_bytes() for path in sorted(corpus_folder.iterdir()))

    class Pipe:
        def __init__(self, content):
            self.buffer = io.BytesIO(content)

        def isatty(self):
            return False

    straight, halted = tmp_path / "straight", tmp_path / "halted"
    for folder, stop in ((straight, None), (halted, 3)):
        monkeypatch.setattr("sys.stdin", Pipe(text))
        run.begin(folder, tiny(data=("-",)), stop_after=stop)
    monkeypatch.setattr("sys.stdin", Pipe(b""))
    run.resume(halted)
    assert final_state(halted) == final_state(straight)


def test_freed_memory_is_kept_while_training_where_enough_is_available_and_changes_no_bit(tmp_path, tiny, monkeypatch):
    calls = []

    class Glibc:
        mallopt = staticmethod(lambda option, value: calls.append((option, value)) or 1)
        malloc_trim = staticmethod(lambda pad: calls.append("trim"))

    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(runtime, "_glibc", lambda: Glibc)
    monkeypatch.setattr(runtime, "available_memory", lambda: 10**12)
    run.begin(tmp_path / "kept", tiny())
    assert calls[:3] == list(runtime._KEEP.items())
    assert calls[3:] == [*runtime._RETURN.items(), "trim"]
    monkeypatch.setattr(runtime, "available_memory", lambda: 3 * 10**8)  # torch alone takes more
    run.begin(tmp_path / "not", tiny())
    assert len(calls) == 7
    assert final_state(tmp_path / "kept") == final_state(tmp_path / "not")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradient_checkpointing_gives_the_same_bits_resumed_too(tmp_path, tiny, precision):
    settings = {"precision": precision, "micro_batch_size": 2}
    run.begin(tmp_path / "off", tiny(gradient_checkpointing="off", **settings))
    run.begin(tmp_path / "on", tiny(gradient_checkpointing="on", **settings), stop_after=3)
    run.resume(tmp_path / "on", stop_after=5)
    run.resume(tmp_path / "on", changes={"gradient_checkpointing": "off"})
    assert final_state(tmp_path / "on") == final_state(tmp_path / "off")


@pytest.mark.parametrize(("asked", "available", "expected"), [
    ("auto", 10**8, True), ("auto", 10**12, False), ("off", 10**8, False), ("on", 10**12, True)
])  # fmt: skip
def test_gradient_checkpointing_is_on_where_asked_for_or_memory_is_short(
    tmp_path, tiny, monkeypatch, asked, available, expected
):
    monkeypatch.setattr(runtime, "available_memory", lambda: available)
    recomputed, notes = set(), []
    compute = Block._compute
    monkeypatch.setattr(
        Block, "_compute", lambda block, *given: recomputed.add(block.checkpointing) or compute(block, *given)
    )

    class Heard(Reporter):
        def note(self, text):
            notes.append(text)

    run.begin(tmp_path / "run", tiny(gradient_checkpointing=asked, steps=1), Heard())
    assert recomputed == {expected}
    assert any("Memory is short" in note for note in notes) == (asked == "auto" and expected)
