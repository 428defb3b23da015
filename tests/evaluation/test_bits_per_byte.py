"""Readings agree with `handloom evaluate`'s perplexity, and can be compared where tokens cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.data.corpus import Corpus, Document
from handloom.evaluation.eval_text import PerplexityConvention
from handloom.evaluation.perplexity import measure
from handloom.evaluation.scoring import BLOCK, RatioEstimator, clusters, difference, ratio, score_text
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.train import train_bpe

WORDS = ("the", "loom", "stands", "in", "a", "corner,", "and", "the", "weaver", "–", "été", "counts", "144")


def some_text(seed, count):
    return " ".join(np.random.default_rng(seed).choice(WORDS, size=count))


DOCUMENTS = [some_text(seed, 12 + 5 * seed) for seed in range(24)]


@pytest.fixture(scope="module")
def lm(model, byte_tokenizer):
    return LanguageModel(model, byte_tokenizer)


@pytest.fixture(scope="module")
def other(lively):
    """A model with another tokenizer."""
    tokenizer = train_bpe([" ".join(DOCUMENTS)], 300)
    return LanguageModel(lively(1, vocab_size=tokenizer.vocab_size), tokenizer)


def corpus_of(documents):
    return Corpus(["texts"], [lambda: (Document(str(i), lambda t=t: (t,)) for i, t in enumerate(documents))])


def test_the_perplexity_and_its_error_are_those_of_the_other_command(lm):
    mine = score_text(lm, DOCUMENTS)
    half = lm.config.context_length // 2
    (theirs,) = measure(lm, corpus_of(DOCUMENTS), PerplexityConvention(stride=(half,))).readings
    assert (mine.tokens, mine.bytes) == (theirs.counts.tokens, theirs.counts.bytes)
    assert mine.nats_per_token.value == pytest.approx(theirs.nats_per_token.value, rel=1e-5)
    assert mine.nats_per_token.standard_error == pytest.approx(theirs.nats_per_token.standard_error, rel=1e-3)
    assert mine.perplexity == pytest.approx(math.exp(theirs.nats_per_token.value), rel=1e-4)
    assert mine.bits_per_byte.value == pytest.approx(theirs.nats / math.log(2) / theirs.counts.bytes, rel=1e-5)


@given(st.lists(st.lists(st.floats(0.1, 9), min_size=1, max_size=5), min_size=2, max_size=9))
def test_units_one_by_one_and_all_at_once_have_one_estimate(units):
    estimator = RatioEstimator()
    for unit in clusters(((number, np.array(nats)) for number, nats in enumerate(units)), None):
        estimator.add(*unit)
    sums, counts = np.array([sum(unit) for unit in units]), np.array([len(unit) for unit in units])
    mine, found = ratio(sums, counts), estimator.estimate()
    assert mine.value == pytest.approx(found.value)
    assert mine.standard_error == pytest.approx(found.standard_error, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("documents", [DOCUMENTS, [some_text(1, 900), "tiny"], ["é"]])
def test_units_are_the_same_whatever_the_tokenizer(lm, other, documents):
    one, two = score_text(lm, documents), score_text(other, documents)
    assert one.sizes.tolist() == two.sizes.tolist()
    assert one.bytes == two.bytes == sum(len(text.encode()) for text in documents) == one.sizes.sum()
    assert one.tokens != two.tokens or documents == ["é"]
    for reading in (one, two):
        everything = np.concatenate(reading.nll).sum(dtype=np.float64) / math.log(2)
        assert reading.bits.sum() == pytest.approx(everything)
        assert reading.bits_per_byte.value == pytest.approx(everything / reading.bytes)


def test_few_documents_are_cut_into_blocks(lm):
    reading = score_text(lm, [some_text(1, 900), "tiny"])
    assert len(reading.sizes) == reading.bytes // BLOCK + 1
    assert min(reading.sizes[:-1]) == BLOCK
    assert reading.sizes[-1] == 4


def test_one_unit_has_no_error(lm):
    assert score_text(lm, ["a short text"]).bits_per_byte.standard_error is None


def test_a_difference_is_one_of_the_same_text_and_knows_that(lm, other):
    one, two = score_text(lm, DOCUMENTS), score_text(other, DOCUMENTS)
    there, back = difference(one, two), difference(two, one)
    assert there.value == pytest.approx(one.bits_per_byte.value - two.bits_per_byte.value)
    assert there.value == pytest.approx(-back.value)
    assert there.standard_error == pytest.approx(back.standard_error)
    assert difference(one, one) == type(there)(0.0, 0.0)


def test_what_is_hard_for_both_does_not_count_as_error(lm):
    reading = score_text(lm, DOCUMENTS)
    harder = type(reading)(**{**reading.__dict__, "bits": reading.bits + 0.5 * reading.sizes})
    found = difference(harder, reading)
    assert found.value == pytest.approx(0.5)
    assert found.standard_error < 1e-9 < reading.bits_per_byte.standard_error
