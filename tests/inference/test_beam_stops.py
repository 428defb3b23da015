"""Beam search with stop strings: the same texts as when all of each is looked at, and only new text is looked at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import lively

from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.inference.sequence import Sequence

BEAMS = 4


@pytest.fixture(scope="module")
def lm(byte_tokenizer):
    return LanguageModel(lively(context_length=64), byte_tokenizer)


def work(lm, tokens, stop, monkeypatch):
    """How many tokens were looked at while searching for a text of `tokens`, and how many characters."""
    counts = [0, 0]
    release = Sequence._release

    def counted(self, new, reason):
        counts[0] += 1
        counts[1] += len(self._held) + len(new)
        return release(self, new, reason)

    monkeypatch.setattr(Sequence, "_release", counted)
    request = GenerationConfig.of(max_new_tokens=tokens, num_beams=BEAMS, overflow="slide", min_new_tokens=tokens)
    (completion,) = lm.complete("The", request, stop=stop).completions
    monkeypatch.setattr(Sequence, "_release", release)
    assert len(completion.ids) == tokens
    return counts


@pytest.mark.parametrize("stop", [(), ("zzz",), ("zzz", "q" * 50, "\ufffd\ufffd\ufffd\ufffd!")])
def test_each_candidate_is_looked_at_once_and_no_text_again(lm, monkeypatch, stop):
    longest = max(map(len, stop), default=1)
    for tokens in (20, 80):
        looked, characters = work(lm, tokens, stop, monkeypatch)
        assert tokens <= looked <= (2 * BEAMS + 1) * tokens + 1
        assert characters <= looked * (longest + 4)  # what is held back, and a token of one byte after half a character


@given(st.lists(st.integers(0, 256), max_size=30), st.lists(st.text("abé\n", min_size=1, max_size=3), max_size=3))
def test_a_row_that_grows_by_copies_ends_where_a_row_ends(byte_tokenizer, ids, stop):
    config = GenerationConfig(stop=stop, eos_token_ids=byte_tokenizer.eos_token_ids)
    row, grown = Sequence([], config, byte_tokenizer), Sequence([], config, byte_tokenizer)
    for token in ids:
        before = (grown.finish_reason, grown._held)
        row.add_token(token)
        after = grown.after(token)
        assert (grown.finish_reason, grown._held) == before
        grown = after
        assert (grown.finish_reason, grown._held) == (row.finish_reason, row._held)


def test_the_text_ends_at_a_stop_string_that_spans_tokens(lm):
    request = GenerationConfig.of(max_new_tokens=24, num_beams=BEAMS)
    whole = lm.complete("The", request).completions[0].text
    stop = next(whole[at : at + 2] for at in range(6, len(whole) - 2) if whole[at : at + 2].isascii())
    found = lm.complete("The", request, stop=stop).completions[0]
    assert found.finish_reason in ("stop", "length")
    assert stop not in found.text


def test_none_is_no_stop_string(lm):
    plain = lm.generate("The", max_new_tokens=9)
    assert lm.generate("The", stop=None, max_new_tokens=9) == plain
    assert "".join(event.text for event in lm.stream("The", stop=None, max_new_tokens=9)) == plain
    assert lm.complete("The", GenerationConfig.of(num_beams=2, max_new_tokens=9), stop=None).completions[0].text
