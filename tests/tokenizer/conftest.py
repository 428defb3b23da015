"""Tokenizers that many tests share, built once."""

from __future__ import annotations

import pytest

from handloom.tokenizer.bpe import BPETokenizer
from handloom.tokenizer.gpt2 import TiktokenTokenizer, gpt2_bpe
from handloom.tokenizer.train import train_bpe

VERSE = "The cat sat on the mat, and the cat's hat sat on the cat. Café, naïve, 1234 1234!\n\n  The end.\n"


@pytest.fixture(scope="session")
def gpt2_hand() -> BPETokenizer:
    return gpt2_bpe()


@pytest.fixture(scope="session")
def gpt2_fast(gpt2_hand) -> TiktokenTokenizer:
    return TiktokenTokenizer(gpt2_hand)


@pytest.fixture(scope="session")
def small() -> BPETokenizer:
    return train_bpe([VERSE], 300)
