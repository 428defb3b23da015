"""What the tests of the data room share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from handloom.tokenizer import load_tokenizer

settings.register_profile("data", deadline=None)  # a test that fails because the machine is busy proves nothing
settings.load_profile("data")


@pytest.fixture(scope="session")
def gpt2():
    return load_tokenizer("gpt2")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files below the test's own folder, which is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(**files):
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        return sorted(files)

    return write
