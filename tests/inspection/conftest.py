"""A model in memory, and the same in a folder."""

from __future__ import annotations

import pytest
from random_models import TEXT, random_model

from handloom.checkpoints.hf_export import export_folder
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.gpt2 import TiktokenTokenizer
from handloom.tokenizer.train import train_bpe


@pytest.fixture(scope="session")
def tokenizer():
    return TiktokenTokenizer(train_bpe([TEXT * 3], 290))


@pytest.fixture
def lm(tokenizer):
    return LanguageModel(random_model(), tokenizer)


@pytest.fixture
def exported(lm, tmp_path):
    export_folder(tmp_path / "exported", lm.model, lm.tokenizer)
    return tmp_path / "exported"
