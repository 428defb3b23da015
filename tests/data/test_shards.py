"""Token shards: what is written is read, and anything else is refused by name."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.data import shards
from handloom.data.shards import HEADER_BYTES, ShardWriter, open_shard, token_dtype, writing_to
from handloom.errors import DataError

FINGERPRINT = "ab" * 32


def write_shard(path, tokens, vocab_size=50_257, ends=(), names=(), n_bytes=0):
    with ShardWriter(path, vocab_size=vocab_size, fingerprint=FINGERPRINT) as writer:
        writer.add(np.asarray(tokens, dtype=writer.dtype).tobytes(), n_bytes)
        for end, name in zip(ends, names, strict=True):
            writer.end_document(name, end)
    return path


@pytest.fixture
def shard(tmp_path):
    tokens = np.arange(1000) % 50_257
    return write_shard(tmp_path / "a.tokens", tokens, ends=(400, 1000), names=("one", "zw\u00f6lf\n"), n_bytes=4321)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50), st.booleans())
def test_tokens_come_back_in_the_smallest_type(tmp_path_factory, tokens, small):
    tokens = [token % 65_536 for token in tokens] if small else tokens
    path = write_shard(tmp_path_factory.mktemp("s") / "a", tokens, vocab_size=65_536 if small else 65_537)
    opened = open_shard(path, fingerprint=FINGERPRINT, verify=True)
    assert opened.tokens.tolist() == tokens
    assert opened.tokens.dtype == (np.uint16 if small else np.uint32)
    assert opened.n_tokens == len(tokens)


def test_counts_and_documents_come_back(shard):
    opened = open_shard(shard)
    assert (opened.n_tokens, opened.n_bytes, opened.n_documents) == (1000, 4321, 2)
    assert opened.fingerprint == FINGERPRINT
    assert [opened.document_at(at) for at in (0, 399, 400, 999)] == [0, 0, 1, 1]
    assert opened.names == ["one", "zw\u00f6lf "]
    assert isinstance(opened.tokens, np.memmap)
    assert not opened.tokens.flags.writeable


def test_vocabularies_of_65536_still_fit_two_bytes():
    assert token_dtype(65_536) == np.dtype("<u2")
    assert token_dtype(65_537) == np.dtype("<u4")


def test_every_flipped_bit_is_found(shard):
    whole = bytearray(shard.read_bytes())
    for at in range(0, len(whole), 7):
        torn = bytearray(whole)
        torn[at] ^= 1 << (at % 8)
        shard.write_bytes(torn)
        with pytest.raises(DataError) as caught:
            open_shard(shard)
        assert str(shard) in caught.value.problem
        assert "Delete the folder" in caught.value.remedy


@pytest.mark.parametrize("length", [0, 5, 100, HEADER_BYTES, HEADER_BYTES + 1000, -1, +1])
def test_a_shard_of_another_length_is_torn(shard, length):
    whole = shard.read_bytes()
    shard.write_bytes((whole + b"\0")[: len(whole) + length if abs(length) == 1 else length])
    with pytest.raises(DataError, match=r"a\.tokens: (a damaged token shard|not a token shard)"):
        open_shard(shard, verify=False)


def test_large_shards_are_read_through_on_request_only(shard, monkeypatch):
    monkeypatch.setattr(shards, "CHEAP_TO_VERIFY", 100)
    whole = bytearray(shard.read_bytes())
    whole[HEADER_BYTES + 3] ^= 16
    shard.write_bytes(whole)
    assert open_shard(shard).n_tokens == 1000
    with pytest.raises(DataError, match="does not match its checksum"):
        open_shard(shard, verify=True)


def test_foreign_files_are_refused(shard, tmp_path):
    foreign = tmp_path / "weights.bin"
    foreign.write_bytes(b"PK\3\4" * 200)
    with pytest.raises(DataError, match=r"weights\.bin: not a token shard of Handloom"):
        open_shard(foreign)
    with pytest.raises(DataError, match=r"missing\.tokens: cannot be read"):
        open_shard(tmp_path / "missing.tokens")
    with pytest.raises(DataError, match="tokens of another tokenizer"):
        open_shard(shard, fingerprint="cd" * 32)


def test_a_later_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "VERSION", 2)
    later = write_shard(tmp_path / "a", [1, 2])
    monkeypatch.undo()
    with pytest.raises(DataError, match="format version 2; this Handloom reads 1"):
        open_shard(later)


def test_a_broken_off_writer_leaves_nothing(tmp_path):
    path = tmp_path / "a.tokens"
    with (  # noqa: PT012  # it is raised within, as Ctrl-C would be
        pytest.raises(KeyboardInterrupt),
        ShardWriter(path, vocab_size=9, fingerprint=FINGERPRINT) as writer,
    ):
        writer.add(b"12", 2)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "Free some space"), (errno.EACCES, "Make it writable"), (errno.EROFS, "Make")]
)
def test_what_the_system_refuses_gets_a_remedy(tmp_path, number, remedy):
    with pytest.raises(DataError) as caught, writing_to(tmp_path):
        raise OSError(number, "reason")
    assert f"cannot be written to {tmp_path} (reason)" in caught.value.problem
    assert caught.value.remedy.startswith(remedy)
    assert "HANDLOOM_CACHE" in caught.value.remedy
