"""Texts become rows and rows become batches: nothing is lost, nothing counts twice, padding is no text."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from handloom.data.collate import PADDING, ShuffledSampler, bucket_by_length, encode_row, pack, stack
from handloom.data.windows import IGNORE_INDEX

TEXTS = st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=8), min_size=1, max_size=9)


def rows_of(texts):
    """Rows of texts in which at least the last token is learned."""
    return [encode_row([3, *(t for t, _ in text), 7], [False, *(yes for _, yes in text), True]) for text in texts]


def parts(row):
    """The texts of a row, as (inputs, targets)."""
    numbers = range(int(row.segments.max()) + 1)
    return [(tuple(row.inputs[row.segments == n]), tuple(row.targets[row.segments == n])) for n in numbers]


def test_what_follows_a_token_is_its_target_if_it_is_learned():
    row = encode_row([50, 11, 12, 13, 14], [False, False, True, False, True])
    assert row.inputs.tolist() == [50, 11, 12, 13]
    assert row.targets.tolist() == [IGNORE_INDEX, 12, IGNORE_INDEX, 14]
    assert row.n_targets == 2


def test_what_stands_behind_the_last_target_is_not_read():
    row = encode_row([50, 11, 12, 13, 14], [True, False, True, False, False])
    assert row.inputs.tolist() == [50, 11]
    assert row.targets.tolist() == [IGNORE_INDEX, 12]


@given(TEXTS, st.integers(9, 20))
def test_packing_keeps_every_text_whole_and_every_row_within_the_context(texts, context_length):
    rows = rows_of(texts)
    packed = pack(rows, context_length)
    assert Counter(part for row in packed for part in parts(row)) == Counter(
        part for row in rows for part in parts(row)
    )
    assert all(len(row) <= context_length for row in packed)
    for row in packed:  # each text in one piece
        assert (np.diff(row.segments) >= 0).all()
    assert sum(map(len, packed)) == sum(map(len, rows))


@given(TEXTS)
def test_packing_leaves_no_two_rows_that_would_fit_into_one(texts):
    lengths = sorted(map(len, pack(rows_of(texts), 16)))
    assert len(lengths) == 1 or lengths[0] + lengths[1] > 16


@given(TEXTS)
def test_padding_is_told_by_length_and_never_by_an_id(texts):
    rows = rows_of(texts)
    batch = stack(rows)
    assert {array.shape for array in batch.values()} == {(len(rows), max(map(len, rows)))}
    for number, row in enumerate(rows):
        text, rest = slice(0, len(row)), slice(len(row), None)
        assert batch["inputs"][number, text].tolist() == row.inputs.tolist()
        assert batch["targets"][number, text].tolist() == row.targets.tolist()
        assert (batch["targets"][number, rest] == IGNORE_INDEX).all()
        assert (batch["segments"][number, text] == 0).all()
        assert (batch["segments"][number, rest] == PADDING).all()


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**63 - 1))
def test_every_epoch_has_every_example_once_and_a_step_needs_no_memory(count, size, seed):
    order = ShuffledSampler(count, size, seed)
    stream = np.concatenate([order.batch(step) for step in range(3 * count)])
    for epoch in range(3 * size):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    again = ShuffledSampler(count, size, seed)
    assert np.array_equal(again.batch(2), order.batch(2))
    assert order.steps_per_epoch == count / size


def test_another_seed_is_another_order_and_another_epoch_too():
    a, b = (np.concatenate([ShuffledSampler(50, 10, seed).batch(step) for step in range(10)]) for seed in (0, 1))
    assert not np.array_equal(a, b)
    assert not np.array_equal(a[:50], a[50:])


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 8))
def test_validation_batches_hold_every_example_once_and_similar_ones_together(lengths, size):
    batches = list(bucket_by_length(lengths, size))
    flat = [number for batch in batches for number in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[number] for number in flat] == sorted(lengths)
    assert max(map(len, batches)) <= size
