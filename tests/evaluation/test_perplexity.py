"""Every convention gives the number of its definition, counted and divided by other means, in constant memory."""

from __future__ import annotations

import gc
import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handloom.cli.evaluate import shown
from handloom.data import text_io
from handloom.data.corpus import open_corpus
from handloom.errors import ConfigError, DataError
from handloom.evaluation.detokenize import FORMS, detokenize
from handloom.evaluation.eval_text import PerplexityConvention
from handloom.evaluation.perplexity import as_json, measure, notes, table_heads, table_rows
from handloom.evaluation.scoring import RatioEstimator, clusters, token_nll_of_ids, validate
from handloom.inference.language_model import LanguageModel

DOCUMENTS = ["Once upon a time, it said:\n\nnaïve words — all of them.\n", "a", "", "Two  spaces and a tab\tin here"]
WIKI = (
    " \n = The Game = \n \n It cost $ 1 @,@ 200 ( about £ 800 ) , didn 't it ? \n = = Career = = \n It ended . \n \n"
    " = Another page = \n \n A half @-@ page , no more . \n"
)
WORD, LINE, ENTROPY = "word_perplexity", "word_and_line_perplexity", "bits_per_byte"


@pytest.fixture(scope="module")
def lm(model, byte_tokenizer):
    return LanguageModel(model, byte_tokenizer)


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS), encoding="utf-8")
    return open_corpus(file)


@pytest.fixture
def wiki(tmp_path):
    file = tmp_path / "wiki.txt"
    file.write_text(WIKI, encoding="utf-8")
    return open_corpus(file)


def named(measured, at=0):
    return {row.key: row.values[at] for row in table_rows(measured) if row.key}


def nats_of(lm, ids, stride, begin):
    """Surprise at a whole sequence, the slow and plain way: everything in one list."""
    parts = list(token_nll_of_ids(lm.model, ids, context_length=16, stride=stride, batch_size=1, begin=begin))
    return np.concatenate(parts) if parts else np.array([])


@pytest.mark.parametrize("stride", [16, 8, 3])
def test_documents_alone_are_summed_each_from_its_own_beginning(lm, corpus, stride):
    end = lm.tokenizer.eos_token_id
    expected = sum(nats_of(lm, lm.tokenizer.encode(text), stride, end).sum() for text in DOCUMENTS)
    measured = measure(lm, corpus, PerplexityConvention(stride=(stride,)))
    (reading,) = measured.readings
    whole = "".join(DOCUMENTS)
    assert reading.nats == pytest.approx(expected, rel=1e-5)
    assert measured.original.tokens == len(whole.encode())
    assert measured.original.bytes == len(whole.encode())
    assert measured.original.characters == len(whole)
    assert measured.original.words == sum(len(text.split()) for text in DOCUMENTS)
    assert measured.original.documents == 4
    row = named(measured)
    assert row["token_perplexity"] == pytest.approx(math.exp(expected / len(whole.encode())), rel=1e-5)
    assert row[ENTROPY] == pytest.approx(expected / math.log(2) / len(whole.encode()), rel=1e-5)
    assert row["bits_per_character"] == pytest.approx(expected / math.log(2) / len(whole), rel=1e-5)
    assert row["nats_per_token"] * measured.original.tokens == pytest.approx(row["nats"])


def test_documents_joined_are_one_text_whose_ends_are_read_and_not_counted(lm, corpus):
    end = lm.tokenizer.eos_token_id
    ids, counted = [], []
    for number, text in enumerate(DOCUMENTS):
        if number:
            ids.append(end)
            counted.append(False)
        ids += lm.tokenizer.encode(text)
        counted += [True] * (len(ids) - len(counted))
    expected = nats_of(lm, ids, 8, end)[np.array(counted)].sum()
    (reading,) = measure(lm, corpus, PerplexityConvention(documents="joined", stride=(8,))).readings
    assert reading.nats == pytest.approx(expected, rel=1e-5)
    assert reading.counts.tokens == sum(counted)


def test_without_an_end_of_text_what_is_not_predicted_is_not_counted(lm, corpus):
    ids = [lm.tokenizer.encode(text) for text in DOCUMENTS]
    alone = measure(lm, corpus, PerplexityConvention(without_end_of_text=True, stride=(16,)))
    assert alone.readings[0].nats == pytest.approx(sum(nats_of(lm, one, 16, None).sum() for one in ids), rel=1e-5)
    assert alone.original.tokens == sum(max(0, len(one) - 1) for one in ids)
    assert alone.original.bytes == alone.original.tokens  # a token is a byte here
    assert alone.original.words == sum(max(0, len(text.split()) - 1) for text in DOCUMENTS)
    joined = measure(lm, corpus, PerplexityConvention(documents="joined", without_end_of_text=True, stride=(16,)))
    whole = "".join(DOCUMENTS)
    assert joined.readings[0].nats == pytest.approx(nats_of(lm, lm.tokenizer.encode(whole), 16, None).sum(), rel=1e-5)
    assert joined.original.bytes == len(whole.encode()) - 1
    assert joined.original.characters == len(whole) - 1


def test_one_text_without_an_end_of_text_is_what_validation_measures(lm, tmp_path):
    text = "The quick brown fox jumps over the lazy dog.\n" * 9
    (tmp_path / "fox.txt").write_text(text, encoding="utf-8")
    measured = measure(
        lm, open_corpus(tmp_path / "fox.txt"), PerplexityConvention(without_end_of_text=True, stride=(16,))
    )
    validation = validate(lm.model, np.array(lm.tokenizer.encode(text)), len(text) - 1, 16, 4)
    row = named(measured)
    assert row["nats_per_token"] == pytest.approx(validation.nats_per_token, rel=1e-5)
    assert row[ENTROPY] == pytest.approx(validation.bits_per_byte, rel=1e-5)
    assert row["tokens"] == validation.tokens


def test_words_of_the_file_while_ordinary_text_is_read(lm, wiki):
    measured = measure(lm, wiki, PerplexityConvention(documents="joined", detokenize="wikitext"))
    as_it_is, wide, narrow = measured.readings
    assert [r.ordinary for r in measured.readings] == [False, True, True]
    assert [r.stride for r in measured.readings] == [16, 16, 8]
    ordinary = detokenize(FORMS["wikitext"], WIKI)
    end = lm.tokenizer.eos_token_id
    for reading, text in ((as_it_is, WIKI), (wide, ordinary), (narrow, ordinary)):
        ids = lm.tokenizer.encode(text)
        assert reading.counts.tokens == len(ids)
        assert reading.nats == pytest.approx(nats_of(lm, ids, reading.stride, end).sum(), rel=1e-5)
    words, lines = len(WIKI.split()), WIKI.count("\n")
    row = named(measured, 1)
    assert row[WORD] == pytest.approx(math.exp(wide.nats / words))
    assert row[LINE] == pytest.approx(math.exp(wide.nats / (words + lines)))
    assert row[ENTROPY] == pytest.approx(wide.nats / math.log(2) / len(WIKI.encode()))
    assert row["bits_per_byte_read"] == pytest.approx(wide.nats / math.log(2) / len(ordinary.encode()))
    assert wide.counts.lines_lost == 0


def test_pages_of_wikitext_are_documents_where_those_stand_alone(lm, wiki):
    measured = measure(lm, wiki, PerplexityConvention(detokenize="wikitext", stride=(16,)))
    first, second = WIKI[2 : WIKI.index(" = Another")], WIKI[WIKI.index(" = Another") :]
    texts = [detokenize(FORMS["wikitext"], text) for text in (" \n", first, second)]
    assert measured.original.documents == 3  # what stands before the first heading, too
    expected = sum(nats_of(lm, lm.tokenizer.encode(text), 16, lm.tokenizer.eos_token_id).sum() for text in texts)
    assert measured.readings[1].nats == pytest.approx(expected, rel=1e-5)


def test_lines_that_cannot_be_had_back_are_told(lm, tmp_path):
    (tmp_path / "a.txt").write_text(" It is an in-word hyphen . \n It is not . \n", encoding="utf-8")
    measured = measure(lm, open_corpus(tmp_path / "a.txt"), PerplexityConvention(detokenize="wikitext"))
    assert measured.readings[1].counts.lines_lost == 1
    assert any("1 of 2 lines cannot be recovered" in reason for reason in notes(measured))


@pytest.mark.parametrize("detokenized", ["none", "wikitext"])
def test_how_the_file_is_read_in_chunks_does_not_matter(lm, wiki, monkeypatch, detokenized):
    convention = PerplexityConvention(detokenize=detokenized, stride=(8,))
    before = measure(lm, wiki, convention)
    monkeypatch.setattr(text_io, "CHUNK", 7)
    assert measure(lm, wiki, convention) == before


def test_limit_takes_the_first_documents(lm, corpus):
    measured = measure(lm, corpus, PerplexityConvention(limit=2))
    assert measured.original.documents == 2
    assert measured.original.bytes == len("".join(DOCUMENTS[:2]).encode())


def text_of(folder, times):
    file = folder / f"{times}.txt"
    file.write_text("All the words of a page, one after another.\n" * 60 * times, encoding="utf-8")
    return open_corpus(file)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(text_io, "CHUNK", 512)
    monkeypatch.setattr("handloom.evaluation.eval_text.PIECE", 512)


@pytest.mark.parametrize("documents", ["alone", "joined"])
def test_eight_times_the_text_takes_no_more_memory(lm, tmp_path, small_pieces, documents):
    convention = PerplexityConvention(documents=documents, detokenize="ptb", stride=(16,))
    peaks = []
    for times in (2, 2, 16):  # the first warms up what Python keeps for itself
        corpus = text_of(tmp_path, times)
        gc.collect()
        tracemalloc.start()
        measure(lm, corpus, convention)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 20_000  # bytes; a list of the ids of the rest alone takes 90,000


def test_twice_the_text_holds_no_more_tensors(lm, tmp_path, small_pieces, monkeypatch):
    hidden = lm.model.hidden
    live = []

    def watched(tokens):
        tensors = (one for one in gc.get_objects() if type(one) is torch.Tensor)
        live.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        return hidden(tokens)

    monkeypatch.setattr(lm.model, "hidden", watched)
    most = []
    for times in (1, 1, 2):
        live.clear()
        measure(lm, text_of(tmp_path, times), PerplexityConvention(stride=(16,)))
        most.append(max(live))
    assert most[2] < most[1] + 2_000  # bytes; the surprises of the other half alone take 10,000


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 9)), min_size=2, max_size=9), st.integers(1, 5))
def test_the_standard_error_is_that_of_a_ratio_over_documents_or_blocks(sizes, block):
    chance = np.random.default_rng(0)
    units = [chance.random(n).astype(np.float32) + np.float32(level) for n, level in sizes]
    halves = [(number, part) for number, unit in enumerate(units) for part in np.array_split(unit, 2)]
    whole = np.concatenate(units)
    blocks = [whole[at : at + block] for at in range(0, len(whole), block)]
    for scores, size, parts in ((halves, None, units), (enumerate(units), block, blocks)):
        estimator = RatioEstimator()
        for unit in clusters(scores, size):
            estimator.add(*unit)
        found = estimator.estimate()
        s, n = (np.array([part.sum(dtype=np.float64) for part in parts]), np.array([len(part) for part in parts]))
        assert estimator.units == len(parts)
        assert estimator.total == pytest.approx(s.sum())
        assert found.value == pytest.approx(s.sum() / n.sum())
        k, m = len(parts), s.sum() / n.sum()
        if k < 2:
            assert found.standard_error is None
        else:
            expected = math.sqrt(k / (k - 1) * ((s - m * n) ** 2).sum()) / n.sum()
            assert found.standard_error == pytest.approx(expected, abs=1e-5)


def test_units_of_equal_size_give_the_plain_standard_error():
    chance = np.random.default_rng(1)
    units = chance.random((30, 8)).astype(np.float32)
    estimator = RatioEstimator()
    for unit in clusters([(0, units.ravel())], 8):
        estimator.add(*unit)
    error = units.mean(axis=1).std(ddof=1) / math.sqrt(30)
    assert estimator.estimate().standard_error == pytest.approx(error, rel=1e-4)


def test_many_documents_are_the_units_of_the_standard_error(lm, tmp_path):
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps({"text": f"text {n} " * 3}) + "\n" for n in range(20)), encoding="utf-8")
    measured = measure(lm, open_corpus(file), PerplexityConvention())
    assert measured.over == "documents"
    assert measured.readings[0].units == 20
    few = measure(lm, open_corpus(file), PerplexityConvention(limit=19))
    assert few.over == "blocks"
    assert few.readings[0].units == -(-few.original.tokens // 16)


def test_the_table_explains_its_numbers(lm, wiki):
    measured = measure(lm, wiki, PerplexityConvention(detokenize="wikitext"))
    row = named(measured, 2)
    assert row["tokens_per_word"] == measured.readings[2].counts.tokens / measured.original.words
    assert row["token_perplexity"] ** row["tokens_per_word"] == pytest.approx(row[WORD], rel=1e-6)
    assert [named(measured, at)["read_before"] for at in range(3)] == [1, 1, 9]
    assert table_heads(measured) == ["as it is\nstride 16", "ordinary\nstride 16", "ordinary\nstride 8"]
    assert len(notes(measured)) == 3
    json.dumps(as_json(measured), allow_nan=False)


def test_numbers_too_large_for_a_float_are_shown_and_are_null_in_json(lm, tmp_path):
    (tmp_path / "one.txt").write_text("x" * 400, encoding="utf-8")
    measured = measure(lm, open_corpus(tmp_path / "one.txt"), PerplexityConvention())
    assert named(measured)[WORD] == math.inf
    assert shown(math.inf) == "inf"
    assert [shown(x) for x in (math.nan, 3, 1234567, 3.14159, 314.159, 1234567.8, 2.5e12)] == [
        "-", "3", "1,234,567", "3.1416", "314.16", "1,234,568", "2.5e+12",
    ]  # fmt: skip
    assert as_json(measured)["readings"][0][WORD] is None


def test_what_cannot_be_measured_is_refused(lm, corpus, tmp_path):
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(DataError, match="no token"):
        measure(lm, open_corpus(tmp_path / "a.txt"), PerplexityConvention(without_end_of_text=True))
    for wrong in (
        {"context_length": 17},
        {"context_length": 0},
        {"stride": (17,)},
        {"stride": (0,)},
        {"limit": 0},
        {"batch_size": 0},
        {"documents": "side by side"},
        {"detokenize": "brown"},
    ):
        with pytest.raises(ConfigError):
            measure(lm, corpus, PerplexityConvention(**wrong))
