"""Every token is surprised at once, from as much as the stride promises, in memory that does not grow."""

from __future__ import annotations

import gc
import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from handloom.data.windows import Window, windows_of
from handloom.errors import ConfigError, ModelError
from handloom.evaluation.scoring import score_windows, token_nll_of_ids, validate
from handloom.model import loss


def ids_of(length, seed=0, vocab_size=257):
    return np.random.default_rng(seed).integers(vocab_size, size=length).astype(np.uint16)


def one_by_one(model, ids, context_length, stride, begin):
    """The definition, a token at a time: what it is predicted from, and its surprise.

    The windows' last targets are context, context + stride, ..., and the end of the text.
    """
    text = [*([] if begin is None else [begin]), *(int(token) for token in ids)]
    last, found = context_length, []
    for at in range(1, len(text)):
        if at > last:
            last += stride
        before = text[max(0, min(last, len(text) - 1) - context_length) : at]
        logits = model(torch.tensor([before]))[0, -1].double()
        found.append((len(before), -logits.log_softmax(-1)[text[at]].item()))
    return found


@given(
    length=st.integers(0, 40),
    context_length=st.integers(1, 16),
    stride=st.integers(1, 16),
    batch_size=st.integers(1, 5),
    begin=st.sampled_from([None, 256]),
)
@example(length=17, context_length=16, stride=16, batch_size=2, begin=None)
@example(length=16, context_length=16, stride=16, batch_size=2, begin=256)
@example(length=33, context_length=16, stride=8, batch_size=1, begin=None)
def test_it_is_what_the_definition_says(model, length, context_length, stride, batch_size, begin):
    stride = min(stride, context_length)
    ids = ids_of(length)
    arrays = list(
        token_nll_of_ids(model, ids, context_length=context_length, stride=stride, batch_size=batch_size, begin=begin)
    )
    assert all(array.dtype == np.float32 for array in arrays)
    ours = np.concatenate(arrays) if arrays else np.array([])
    with torch.no_grad():
        expected = one_by_one(model, ids, context_length, stride, begin)
    np.testing.assert_allclose(ours, [nats for _, nats in expected], rtol=1e-4, atol=1e-4)
    for number, (before, _) in enumerate(expected, start=1):
        assert before >= min(number, context_length - stride + 1)


@pytest.mark.parametrize("length", [2, 16, 17, 18, 100, 161])
def test_its_sum_is_the_validation_loss(model, length):
    ids = ids_of(length)
    ours = np.concatenate(list(token_nll_of_ids(model, ids, context_length=16, batch_size=3)))
    assert len(ours) == length - 1
    validation = validate(model, ids, length, 16, 4)
    assert ours.mean(dtype=np.float64) == pytest.approx(validation.nats_per_token, rel=1e-5)


def test_lists_arrays_and_files_are_read_alike(model, tmp_path):
    ids = ids_of(70)
    ids.tofile(tmp_path / "ids.bin")
    mapped = np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="r")
    first, *others = [
        np.concatenate(list(token_nll_of_ids(model, form, context_length=16, stride=4)))
        for form in (ids.tolist(), ids, mapped)
    ]
    for other in others:
        assert (other == first).all()


@given(cuts=st.lists(st.integers(0, 60), max_size=6), stride=st.integers(1, 8))
def test_the_windows_do_not_depend_on_the_chunks(cuts, stride):
    ids = ids_of(60)
    edges = [0, *sorted(cuts), 60]
    chunks = [ids[a:b] for a, b in itertools.pairwise(edges)]
    whole = list(windows_of([ids], context_length=8, stride=stride, begin=256))
    parts = list(windows_of(chunks, context_length=8, stride=stride, begin=256))
    assert [w.inputs.tolist() for w in parts] == [w.inputs.tolist() for w in whole]
    assert [w.targets.tolist() for w in parts] == [w.targets.tolist() for w in whole]
    assert np.concatenate([w.targets for w in whole]).tolist() == ids.tolist()


def test_windows_of_unequal_lengths_do_not_touch_each_other(model):
    chance = np.random.default_rng(3)
    windows = []
    for _ in range(23):
        length = int(chance.integers(1, 17))
        counted = int(chance.integers(1, length + 1))
        ids = chance.integers(257, size=length + 1)
        windows.append(Window(ids[:-1], ids[1:][-counted:]))
    alone = list(score_windows(model, windows, 1))
    together = list(score_windows(model, windows, 4, read_ahead=3))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a.nll, b.nll, rtol=1e-5, atol=1e-5)
        assert a.is_greedy == b.is_greedy


def test_greedy_is_what_writing_greedily_would_give(model):
    ids, before = [5, 9], 2
    with torch.no_grad():
        while len(ids) < 8:
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    likeliest = Window(np.array(ids[:-1]), np.array(ids[before:]))
    other = Window(np.array(ids[:-1]), np.array([*ids[before:-1], (ids[-1] + 1) % 257]))
    assert [scored.is_greedy for scored in score_windows(model, [likeliest, other], 2)] == [True, False]


def test_the_model_stays_as_it_was_and_keeps_no_graph(model):
    model.train()
    try:
        stream = token_nll_of_ids(model, ids_of(100), context_length=16, batch_size=1)
        next(stream)
        assert model.training
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    finally:
        model.eval()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_longer_text_takes_no_more_memory(model, tmp_path, monkeypatch):
    monkeypatch.setattr("handloom.data.windows._CHUNK", 256)
    peaks = []
    for length in (2_000, 20_000):
        ids_of(length).tofile(tmp_path / "ids.bin")
        ids = np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="r")
        gc.collect()
        tracemalloc.start()
        total = sum(float(nats.sum()) for nats in token_nll_of_ids(model, ids, context_length=16, batch_size=8))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total > 0
    assert peaks[1] < peaks[0] + 15_000  # bytes, where the ids alone would take 36,000 more, the surprises 72,000


def test_scores_are_never_held_for_a_whole_batch(model, monkeypatch):
    sizes = []
    monkeypatch.setattr(loss, "CHUNK_TOKENS", 10)
    hook = model.lm_head.register_forward_pre_hook(lambda head, inputs: sizes.append(len(inputs[0])))
    ours = np.concatenate(list(token_nll_of_ids(model, ids_of(100), context_length=16, batch_size=4)))
    hook.remove()
    assert sum(sizes) == len(ours) == 99
    assert max(sizes) == 10


@pytest.mark.parametrize(
    "settings",
    [
        {"context_length": 0},
        {"context_length": 8, "stride": 0},
        {"context_length": 8, "stride": 9},
        {"context_length": 8, "batch_size": 0},
    ],
)
def test_settings_without_meaning_are_refused_at_once(model, settings):
    with pytest.raises(ConfigError):
        token_nll_of_ids(model, ids_of(20), **settings)


def test_numbers_that_are_none_are_an_error(model):
    class Damaged:
        training, config, device = False, model.config, torch.device("cpu")
        lm_head = torch.nn.Linear(16, 257, bias=False)
        torch.nn.init.constant_(lm_head.weight, float("nan"))

        def hidden(self, tokens):
            return model.hidden(tokens)

        def train(self, mode=True):
            pass

        eval = train

    with pytest.raises(ModelError, match="not finite"):
        list(token_nll_of_ids(Damaged(), ids_of(20), context_length=8))
