"""Pulls that are refused: the end of the second table of docs/errors.md.

Each case begins in an empty folder, with a hub on loopback that something ails.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from bad_inputs import BadInput
from bad_storage import held_by_another

from loopback_hub import LoopbackHub, hub_in_use, tiny_gpt2

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def pull_case(
    what: str, ail: Callable[[LoopbackHub, pytest.MonkeyPatch, ExitStack], object], words: str = "gpt2"
) -> BadInput:
    """A pull from a hub that is ailing."""

    def before(stack: ExitStack) -> None:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        hub = stack.enter_context(hub_in_use(patch))
        ail(hub, patch, stack)

    return BadInput(what, f"handloom pull {words}", before)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


_FILES = {"config": "config.json", "merges": "merges.txt", "weights": WEIGHTS}


def repository_case(what: str, **changed: bytes | None) -> BadInput:
    """A repository whose files (`_FILES`) differ from a sound one's; None takes one away."""

    def ail(hub, patch, stack):
        found = {**tiny_gpt2(), **{_FILES[name]: content for name, content in changed.items()}}
        hub.repositories["acme/tiny"] = {name: content for name, content in found.items() if content is not None}

    return pull_case(what, ail, "acme/tiny")


def key_case(what: str, **keys: object) -> BadInput:
    """A repository with these keys in its config.json."""
    return repository_case(what, config=as_json(json.loads(tiny_gpt2()["config.json"]) | keys))


def shards_case(what: str, shard: str) -> BadInput:
    """A repository whose index names that file."""

    def ail(hub, patch, stack):
        hub.repositories["acme/tiny"] = {**tiny_gpt2("sharded"), INDEX: as_json({"weight_map": {"wte.weight": shard}})}

    return pull_case(what, ail, "acme/tiny")


def fault(**faults: object) -> Callable:
    """What the hub does wrong."""

    def ail(hub, patch, stack):
        for name, value in faults.items():
            setattr(hub.faults, name, value)

    return ail


def nothing_ails(hub, patch, stack):
    pass


def no_network(hub, patch, stack):
    hub.close()


def model_but_no_network(hub, patch, stack):
    from huggingface_hub.utils import close_session

    from handloom.checkpoints.pull import pull

    pull("gpt2")
    hub.close()
    close_session()  # else the connection that is open still serves


def wrong_token(hub, patch, stack):
    hub.faults.token = "hf_right"
    patch.setenv("HF_TOKEN", "hf_wrong")


def torn_token(hub, patch, stack):
    patch.setenv("HF_TOKEN", "hf_a b")


def offline(hub, patch, stack):
    from huggingface_hub import constants

    patch.setattr(constants, "HF_HUB_OFFLINE", True)


def another_process(hub, patch, stack):
    held_by_another(stack, Path("models/.gpt2.handloom.lock"))


def copied_by_hand(hub, patch, stack):
    Path("models/gpt2").mkdir(parents=True)
    Path("models/gpt2/config.json").write_bytes(b"{}")


def others_files(hub, patch, stack):
    Path("models/gpt2").mkdir(parents=True)
    Path("models/gpt2/origin.json").write_bytes(as_json({"revision": "earlier", "files": {}}))
    Path("models/gpt2/notes.txt").write_bytes(b"mine")


def no_space(hub, patch, stack):
    usage = namedtuple("usage", "total used free")
    patch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1_200_000))


def disk(number: int) -> Callable:
    """A disk that refuses while the weights arrive."""

    def ail(hub, patch, stack):
        from handloom.checkpoints.hub import Hub

        real = Hub._append

        def refuse(self, repository, file, part, on_bytes):
            if file.name == WEIGHTS:
                raise OSError(number, "Input/output error")
            real(self, repository, file, part, on_bytes)

        patch.setattr(Hub, "_append", refuse)

    return ail


def looping_folder(stack: ExitStack) -> None:
    Path("models").symlink_to("models")


CASES = [
    # Names and addresses
    pull_case("A name that nothing has", nothing_ails, "gtp2"),
    pull_case("An endpoint that is not an address", nothing_ails, "gpt2 --endpoint mirror"),
    # The hub
    pull_case("A model that the hub does not have", nothing_ails, "acme/nothing"),
    pull_case("A private model without a token", fault(token="hf_right")),
    pull_case("A token that is not accepted", wrong_token),
    pull_case("A token that cannot be one", torn_token),
    pull_case("A gated model", fault(gated=True)),
    pull_case("A revision that is not there", nothing_ails, "gpt2 --revision v9"),
    pull_case("A model that is not for you", fault(status={WEIGHTS: 403})),
    pull_case("A hub that is too busy", fault(status={WEIGHTS: 503})),
    pull_case("A file that the hub has no more", fault(status={WEIGHTS: 410})),
    pull_case("A file that does not arrive", fault(status={WEIGHTS: 416})),
    pull_case("A page to log in, instead of a hub", fault(garbage=b"<html>Log in</html>")),
    # The network
    pull_case("No network", no_network),
    pull_case("No network, and a model from before", model_but_no_network),
    pull_case("A network that is forbidden", offline),
    # What the repository holds
    repository_case("Another architecture on the hub", config=as_json({"model_type": "llama"})),
    repository_case("A repository's config.json that is a list", config=b"[]"),
    repository_case("A repository without a config.json", config=None),
    repository_case("A repository with half of a tokenizer", merges=None),
    repository_case("A repository without weights", weights=None),
    key_case("Keys on the hub that are not known", rope_theta=10000, sliding_window=4096),
    shards_case("An index of what is not there", "model-9.safetensors"),
    # What arrives
    pull_case("A file without a checksum", fault(no_checksums=True)),
    pull_case("A file that arrives damaged", fault(damage={WEIGHTS})),
    # This machine
    pull_case("A pull by two at once", another_process),
    pull_case("A folder copied by hand", copied_by_hand),
    pull_case("A pulled model with other files in its folder", others_files),
    pull_case("No space for the weights", no_space),
    pull_case("A disk that becomes full on the way", disk(errno.ENOSPC)),
    pull_case("A disk that fails", disk(errno.EIO)),
    BadInput("A models folder that cannot be read", "handloom model list", looping_folder),
]
