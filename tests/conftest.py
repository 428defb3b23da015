"""Every test runs in a temporary home and cache, with no way to the network."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture(autouse=True)
def _hermetic(tmp_path, monkeypatch):
    """No test reads or writes the user's folders, and none leaves this machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HANDLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HANDLOOM_MODELS", str(tmp_path / "models"))
    connect = socket.socket.connect

    def only_loopback(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback, which the endpoint of this process and its children is; with gpt2 and acme/tiny."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    from handloom.checkpoints import hub as client
    from loopback_hub import LoopbackHub, tiny_gpt2

    server = LoopbackHub()
    server.repositories = {"openai-community/gpt2": tiny_gpt2(), "acme/tiny": tiny_gpt2()}
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read when the library was imported
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "no-such-file")
    monkeypatch.setattr(client, "PAUSE", 0.001)
    close_session()
    yield server
    close_session()
    server.close()
