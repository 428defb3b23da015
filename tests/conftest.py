"""Every test runs in a temporary home and cache, with no way to the network."""

from __future__ import annotations

import os
import signal
import socket

import pytest

if hasattr(signal, "SIGHUP"):  # `nohup make test` hands down an ignored SIGHUP, which commands respect
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure():
    """What auto is in a test that is not about it: exact, and nothing is compiled."""
    os.environ["HANDLOOM_PRECISION"] = "fp32"


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
    from loopback_hub import hub_in_use

    with hub_in_use(monkeypatch) as server:
        yield server
