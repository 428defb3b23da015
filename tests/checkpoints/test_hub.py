"""Pulling from a hub on loopback, with the real client: whole and verified, or not at all; never twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom import locks
from handloom.checkpoints.hub import PATIENCE, Hub, RemoteFile
from handloom.checkpoints.model_store import local_models, model_folder, repository_of, unfinished_pulls
from handloom.checkpoints.pull import pull
from handloom.errors import CheckpointError, ConfigError, HandloomError
from handloom.runtime import models_folder
from handloom.tokenizer import load_tokenizer
from loopback_hub import git_id, tiny_gpt2

WEIGHTS = "model.safetensors"
GPT2 = "openai-community/gpt2"
UNUSED = {"README.md": b"# GPT-2", "tf_model.h5": b"\x89HDF" * 999, "pytorch_model.bin": b"\x80" * 9999}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "origin.json"}


def whole(name="gpt2", form="safetensors"):
    """Whether the model is in its place as it is on the hub, and nothing else was left behind."""
    return contents(model_folder(name)) == tiny_gpt2(form) and not unfinished_pulls()


def part(name="gpt2"):
    return next(models_folder().glob(f".unfinished-{name}/*.part"))


# What arrives


def test_a_pulled_model_is_what_the_hub_has_and_says_from_where_it_came(hub):
    hub.repositories[GPT2] |= UNUSED | {"tokenizer_config.json": b"{}"}
    ended = pull("gpt2")
    assert contents(ended.model.folder) == tiny_gpt2() | {"tokenizer_config.json": b"{}"}
    assert ended.fetched == sum(map(len, contents(ended.model.folder).values()))
    origin = json.loads((models_folder() / "gpt2" / "origin.json").read_text(encoding="utf-8"))
    assert origin["repository"] == GPT2
    assert (origin["revision"], origin["endpoint"]) == (hub.commit(GPT2), hub.url)
    weights = hub.repositories[GPT2][WEIGHTS]
    assert origin["files"][WEIGHTS] == {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    assert not any(hub.sent(name) for name in UNUSED)
    assert local_models() == [ended.model]


@pytest.mark.parametrize("form", ["sharded", "bin", "sharded-bin"])
def test_other_forms_of_weights(form, hub):
    hub.repositories["acme/tiny"] = tiny_gpt2(form)
    pull("acme/tiny")
    assert whole("acme/tiny", form)


def test_the_best_form_of_weights_is_taken(hub):
    hub.repositories["acme/tiny"] = tiny_gpt2("sharded-bin") | tiny_gpt2("sharded") | tiny_gpt2("bin")
    pull("acme/tiny")
    assert whole("acme/tiny", "sharded")


def test_progress_never_goes_back_and_ends_at_the_total(hub):
    hub.faults.cut[WEIGHTS] = [100_000]
    seen = []
    pull("gpt2", on_progress=seen.append)
    of_weights = [step for step in seen if step.file == WEIGHTS]
    assert [step.done for step in of_weights] == sorted(step.done for step in of_weights)
    assert of_weights[-1].done == of_weights[-1].total
    assert len({step.total for step in of_weights}) == 1


def test_a_model_that_is_here_is_not_fetched_again(hub):
    folder = pull("gpt2").model.folder
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    hub.log.clear()
    assert pull("gpt2").fetched == 0
    assert [seen.path for seen in hub.log] == [f"/api/models/{GPT2}"]
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]} == before
    assert whole()


def test_a_newer_revision_replaces_the_folder_and_fetches_only_what_changed(hub):
    old = hub.commit(GPT2)
    pull("gpt2")
    newer = hub.repositories[GPT2] = tiny_gpt2() | {"generation_config.json": b'{"eos_token_id": 0}'}
    hub.log.clear()
    ended = pull("gpt2")
    assert hub.commit(GPT2) == ended.model.revision != old
    assert ended.fetched == len(newer["generation_config.json"])
    assert contents(ended.model.folder) == newer
    assert hub.sent(WEIGHTS) == 0


def test_a_file_damaged_on_disk_is_mended_by_the_same_command(hub):
    folder = pull("gpt2").model.folder
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(300_000)
        file.write(b"\0\1\2\3")
    hub.log.clear()
    assert pull("gpt2").fetched == len(tiny_gpt2()[WEIGHTS])
    assert whole()


def test_a_revision_can_be_named(hub):
    commit = hub.commit(GPT2)
    assert pull("gpt2", revision=commit).model.revision == commit
    assert hub.log[0].path.endswith(f"/revision/{commit}")


# Interrupted


def test_a_lost_connection_is_taken_up_at_the_byte_where_it_ended(hub):
    hub.faults.cut[WEIGHTS] = [100_000, 1, 150_000, *[1000] * (PATIENCE + 1)]
    pull("gpt2")
    assert whole()
    ranges = [seen.headers.get("range") for seen in hub.asked(WEIGHTS)]
    assert ranges[:5] == [None, "bytes=100000-", "bytes=100001-", "bytes=250001-", "bytes=251001-"]
    assert hub.sent(WEIGHTS) == len(tiny_gpt2()[WEIGHTS])


@pytest.mark.parametrize("form", ["safetensors", "sharded"])
def test_the_next_pull_goes_on_where_this_one_was_given_up(form, hub):
    hub.repositories["acme/tiny"] = tiny_gpt2(form)
    weights = max(tiny_gpt2(form), key=lambda name: len(tiny_gpt2(form)[name]))
    hub.faults.cut[weights] = [100_000, *[0] * (PATIENCE + 1)]
    with pytest.raises(CheckpointError, match="the same command resumes") as raised:
        pull("acme/tiny")
    assert hub.url in raised.value.problem
    assert part("acme--tiny").stat().st_size == 100_000
    assert local_models() == []
    assert [name for name, _ in unfinished_pulls()] == ["acme/tiny"]
    pull("acme/tiny")
    assert whole("acme/tiny", form)
    assert hub.asked(weights)[-1].headers["range"] == "bytes=100000-"
    for name, content in tiny_gpt2(form).items():
        assert hub.sent(name) == len(content), f"{name} was not fetched exactly once"


def test_a_stopped_pull_keeps_what_it_has(hub):
    begun = []

    def stop(progress):
        if progress.file == WEIGHTS:
            begun.append(progress.done)
            if progress.done > begun[0]:  # a piece of it has arrived
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("gpt2", on_progress=stop)
    had = part().stat().st_size
    assert had > 0
    ended = pull("gpt2")
    assert hub.asked(WEIGHTS)[-1].headers["range"] == f"bytes={had}-"
    assert ended.fetched == len(tiny_gpt2()[WEIGHTS]) - had
    assert whole()


def test_a_hub_that_cannot_begin_in_the_middle_is_asked_for_all(hub):
    hub.faults.cut[WEIGHTS] = [100_000]
    hub.faults.ignore_range = True
    pull("gpt2")
    assert hub.asked(WEIGHTS)[-1].headers["range"] == "bytes=100000-"
    assert hub.sent(WEIGHTS) == 100_000 + len(tiny_gpt2()[WEIGHTS])
    assert whole()


def test_first_bytes_of_another_revision_are_not_gone_on_with(hub):
    hub.faults.cut[WEIGHTS] = [100_000, *[0] * (PATIENCE + 1)]
    with pytest.raises(CheckpointError):
        pull("gpt2")
    changed = bytearray(tiny_gpt2()[WEIGHTS])
    changed[-1] ^= 1
    hub.repositories[GPT2] = tiny_gpt2() | {WEIGHTS: bytes(changed)}
    pull("gpt2")
    assert contents(model_folder("gpt2")) == hub.repositories[GPT2]
    assert "range" not in hub.asked(WEIGHTS)[-1].headers


def test_a_busy_hub_is_asked_again_a_few_times(hub):
    hub.faults.status[WEIGHTS] = 503
    with pytest.raises(CheckpointError, match=r"cannot serve .* now \(HTTP 503\). Wait a while"):
        pull("gpt2")
    asked = [seen for seen in hub.log if seen.file == WEIGHTS and "resolve" not in seen.path]
    assert len(asked) == PATIENCE + 1


def test_two_pulls_of_one_model_do_not_write_the_same_file(hub):
    models_folder().mkdir(parents=True)
    with (
        locks.hold(models_folder() / ".gpt2.handloom.lock", models_folder()),
        pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on {platform.node()}"),
    ):
        pull("gpt2")
    assert hub.log == []
    pull("gpt2")
    assert whole()


# Damaged


def test_a_damaged_file_is_refused_and_fetched_anew_the_next_time(hub):
    hub.faults.damage = {WEIGHTS}
    with pytest.raises(CheckpointError, match=r"model\.safetensors of .* arrived damaged.* fetches it again"):
        pull("gpt2")
    assert local_models() == []
    assert not list(models_folder().rglob("*.part"))
    hub.faults.damage = set()
    hub.log.clear()
    pull("gpt2")
    assert "range" not in hub.asked(WEIGHTS)[0].headers
    assert hub.sent("vocab.json") == 0, "what was whole is kept"
    assert whole()


def test_a_damaged_small_file_is_refused_too(hub):
    hub.faults.damage = {"vocab.json"}
    with pytest.raises(CheckpointError, match=r"vocab\.json of .* arrived damaged"):
        pull("gpt2")
    assert hub.sent(WEIGHTS) == 0


def test_first_bytes_damaged_on_disk_are_found_out(hub):
    hub.faults.cut[WEIGHTS] = [100_000, *[0] * (PATIENCE + 1)]
    with pytest.raises(CheckpointError):
        pull("gpt2")
    part().write_bytes(bytes(100_000))
    with pytest.raises(CheckpointError, match="arrived damaged"):
        pull("gpt2")
    pull("gpt2")
    assert whole()


def test_what_cannot_be_verified_is_not_fetched(hub):
    hub.faults.no_checksums = True
    with pytest.raises(CheckpointError, match=r"does not name size and checksum of config\.json"):
        pull("gpt2")
    assert len(hub.log) == 1


@given(content=st.binary(max_size=200), at=st.integers(0, 199), large=st.booleans())
def test_any_changed_byte_is_noticed(content, at, large, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "file"
    path.write_bytes(content)
    sha256, git = (hashlib.sha256(content).hexdigest(), None) if large else (None, git_id(content))
    file = RemoteFile("file", len(content), sha256, git)
    assert file.matches(path)
    changed = bytearray(content)
    if at < len(changed):
        changed[at] ^= 0x40
    else:
        changed.append(0)
    path.write_bytes(changed)
    assert not file.matches(path)


# No space


def test_without_space_nothing_large_is_begun(hub, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1_200_000))
    with pytest.raises(CheckpointError, match=r"0\.5 MB are needed and 1\.2 MB are free.*HANDLOOM_MODELS"):
        pull("gpt2")
    assert not [seen for seen in hub.log if seen.file == WEIGHTS]


def test_a_disk_that_becomes_full_on_the_way_keeps_what_fits(hub, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        monkeypatch.setenv("HANDLOOM_MODELS", str(disk / "models"))
        monkeypatch.setattr("handloom.storage.require_space", lambda folder, needed: None)
        with pytest.raises(CheckpointError, match=r"disk became full.* same command resumes"):
            pull("gpt2")
        had = part().stat().st_size
        assert had > 100_000
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        pull("gpt2")
        assert hub.asked(WEIGHTS)[-1].headers["range"] == f"bytes={had}-"
        assert whole()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_models_folder_that_may_not_be_written(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HANDLOOM_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(CheckpointError, match="HANDLOOM_MODELS"):
        pull("gpt2")
    assert local_models() == []


# Refused by the hub


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub, monkeypatch):
    hub.faults.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull("gpt2")
    assert whole()
    told = {seen.headers.get("authorization") for seen in hub.log if seen.headers["host"] in hub.url}
    stored = [seen for seen in hub.log if seen.headers["host"] in hub.storage]
    assert told == {"Bearer hf_secret"}
    assert stored
    assert not any("authorization" in seen.headers for seen in stored)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, r"hides it from you \(HTTP 401\)\. Check the name\. If the model is private, check HF_TOKEN"),
        ("hf_wrong", r"does not accept the token in use \(HF_TOKEN.*public models need no token"),
    ],
)
def test_a_private_model_without_its_token(token, said, hub, monkeypatch):
    hub.faults.token = "hf_secret"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError, match=said):
        pull("gpt2")
    assert not any(models_folder().glob("*"))


def test_a_gated_model_says_where_its_conditions_are(hub):
    hub.faults.gated = True
    with pytest.raises(CheckpointError, match="gated") as raised:
        pull("gpt2")
    assert f"{hub.url}/{GPT2}" in raised.value.remedy


def test_a_model_that_the_hub_does_not_have(hub):
    with pytest.raises(CheckpointError, match="does not have a model acme/nothing"):
        pull("acme/nothing")


def test_a_revision_that_the_model_does_not_have(hub):
    with pytest.raises(CheckpointError, match=r"does not have the revision 'v9'.*`revision`"):
        pull("gpt2", revision="v9")


@pytest.mark.parametrize(
    ("config", "kind"), [({"model_type": "llama"}, "'llama'"), ({"architectures": ["T5Model"]}, "None")]
)
def test_another_architecture_is_refused_before_its_weights(config, kind, hub):
    hub.repositories["acme/other"] = tiny_gpt2() | {"config.json": json.dumps(config).encode()}
    with pytest.raises(CheckpointError, match=f"a model of type {kind}.*were not fetched"):
        pull("acme/other")
    assert not [seen for seen in hub.log if seen.file in (WEIGHTS, "vocab.json")]
    assert not any(models_folder().iterdir())


def small(**changes):
    """The repository with other keys in its config.json; None takes one away."""
    config = json.loads(tiny_gpt2()["config.json"]) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    return {"config.json": json.dumps(kept).encode()}


MERGED_AWAY = {"merges.txt": b"#version: 0.2\n"}
REPOSITORIES = {  # what a repository has beside or instead of tiny GPT-2's files, and what reading says of it
    "as it is": ({}, None),
    "without a type": (small(model_type=None), None),
    "as old as can be": (small(model_type=None, architectures=None), None),
    "harmless keys": (small(hidden_act="gelu", type_vocab_size=2, unk_token_id=0), None),
    "two heads": (small(architectures=["GPT2DoubleHeadsModel"]), None),
    "only TensorFlow's class": (small(architectures=["TFGPT2LMHeadModel"]), None),
    "an unknown key": (small(rope_theta=10000), "rope_theta is 10000"),
    "quantized": (small(quantization_config={"bits": 4}), "quantization_config is"),
    "another head": (small(architectures=["GPT2ForTokenClassification"]), "architectures is"),
    "another activation": (small(activation_function="silu"), "activation_function is 'silu'"),
    "sizes that are none": (small(n_head=3), "heads 3"),
    "fewer ids than its tokenizer": (small(vocab_size=100), "has 267 ids, and its model 100"),
    "a tokenizer of another kind": ({"tokenizer.json": b'{"model": {"type": "Unigram"}}'} | MERGED_AWAY, ""),
    "a pointer for a tokenizer": (
        {"merges.txt": b"version https://git-lfs.github.com/spec/v1\noid"},
        "is a pointer of Git LFS",
    ),
}


@pytest.mark.parametrize("what", REPOSITORIES)
def test_pull_accepts_what_reading_accepts_and_nothing_else(what, hub, tmp_path):
    from handloom.checkpoints import hf_folder

    changes, words = REPOSITORIES[what]
    repository = hub.repositories["acme/tiny"] = tiny_gpt2() | changes
    reference = tmp_path / "by-hand"
    reference.mkdir()
    for name, content in repository.items():
        (reference / name).write_bytes(content)
    if words is None:
        hf_folder.open_folder(reference).load_tokenizer()
        stored = hf_folder.open_folder(pull("acme/tiny").model.folder)
        assert stored.load_model().config == hf_folder.open_folder(reference).config
        return
    with pytest.raises(HandloomError) as read:
        hf_folder.open_folder(reference).load_tokenizer()
    with pytest.raises(CheckpointError) as pulled:
        pull("acme/tiny")
    assert words in read.value.problem
    said = read.value.problem.replace(str(reference), "acme/tiny")
    assert pulled.value.problem == f"{said} Its weights were not fetched."
    assert hub.sent(WEIGHTS) == 0
    assert not any(models_folder().iterdir())


def test_a_repository_with_tokenizer_json_alone_is_pulled_with_its_settings_and_template(hub, tmp_path):
    """As transformers 5 saves every model."""
    from handloom.checkpoints import hf_folder

    repository = tiny_gpt2()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes(repository.pop(name))
    own = load_tokenizer(tmp_path)
    own.save(tmp_path, {"chat_template": "{{ messages[0].content }}"})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        repository[name] = (tmp_path / name).read_bytes()
    hub.repositories["acme/tiny"] = repository
    folder = pull("acme/tiny").model.folder
    assert not (folder / "vocab.json").exists()
    found = hf_folder.open_folder(folder).load_tokenizer()
    assert found.fingerprint == own.fingerprint
    assert found.settings.chat_template == "{{ messages[0].content }}"


def test_files_of_other_kinds_of_tokenizers_come_too_so_that_reading_sees_them(hub):
    more = {"spiece.model": b"sp", "vocab.txt": b"[PAD]\n"}
    hub.repositories["acme/tiny"] = tiny_gpt2() | more | {"onnx/vocab.json": b"{}", "training_args.bin": b"x"}
    assert contents(pull("acme/tiny").model.folder) == tiny_gpt2() | more


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tf_model.h5", "holds weights of TensorFlow"),
        ("flax_model.msgpack", "holds weights of Flax"),
        ("model-q4.gguf", "holds a model for llama.cpp"),
        ("onnx/model.onnx", "holds a model compiled to ONNX"),
    ],
)
def test_a_repository_of_other_weights_says_what_they_are(name, words, hub):
    repository = tiny_gpt2() | {name: b"\0"}
    del repository[WEIGHTS]
    hub.repositories["acme/tiny"] = repository
    with pytest.raises(
        CheckpointError, match=f"acme/tiny contains weights in none of the forms that Handloom reads.*{name} {words}"
    ):
        pull("acme/tiny")
    del repository["config.json"]
    with pytest.raises(CheckpointError, match=rf"acme/tiny does not have config\.json.*{name} {words}"):
        pull("acme/tiny")


@pytest.mark.parametrize("lacking", ["config.json", "vocab.json", "merges.txt", WEIGHTS])
def test_a_repository_that_lacks_something(lacking, hub):
    del hub.repositories[GPT2][lacking]
    with pytest.raises(CheckpointError, match=f"{lacking}"):
        pull("gpt2")
    assert not any(models_folder().iterdir())


@pytest.mark.parametrize("shard", ["../../evil.safetensors", "/etc/passwd", "nothing.safetensors", "a/b.bin"])
def test_an_index_names_only_files_of_its_repository(shard, hub):
    index = f"{WEIGHTS}.index.json"
    files = tiny_gpt2("sharded") | {index: json.dumps({"weight_map": {"wte.weight": shard}}).encode()}
    hub.repositories["acme/tiny"] = files | ({shard: b"x"} if shard == "a/b.bin" else {})
    with pytest.raises(CheckpointError, match="names a shard"):
        pull("acme/tiny")


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_config_that_is_none(text, hub):
    hub.repositories["acme/tiny"] = tiny_gpt2() | {"config.json": text}
    with pytest.raises(CheckpointError, match=r"acme/tiny/config\.json (cannot be read|is not a JSON object)"):
        pull("acme/tiny")


def test_a_folder_copied_by_hand_is_left_alone(hub):
    folder = model_folder("gpt2")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"was not pulled.*left alone"):
        pull("gpt2")
    assert contents(folder) == {"config.json": b"{}"}
    assert [(model.name, model.repository) for model in local_models()] == [("gpt2", None)]


# Addresses and networks


def test_an_endpoint_given_goes_before_that_of_the_environment(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert pull("gpt2", endpoint=f"{hub.url}/").model.endpoint == hub.url


def test_without_a_network_it_says_how_models_come_here_all_the_same(hub, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(CheckpointError, match=f"connection to {nobody} failed") as raised:
            pull("gpt2", endpoint=nobody)
        assert f"copy its folder to {model_folder('gpt2')}" in raised.value.remedy
        pull("gpt2")
        with pytest.raises(CheckpointError, match="can be used meanwhile"):
            pull("gpt2", endpoint=nobody)
    assert whole()


def test_a_user_who_forbids_the_network_is_obeyed(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        pull("gpt2")
    assert hub.log == []


@pytest.mark.parametrize("garbage", [b"<html>Log in</html>", b"[]", b"{}", b'{"id": "x", "siblings": [{}]}', b"7"])
def test_an_endpoint_that_is_no_hub(garbage, hub):
    hub.faults.garbage = garbage
    with pytest.raises(CheckpointError, match="not as a hub of models does"):
        pull("gpt2")


@pytest.mark.parametrize("endpoint", ["hf-mirror", "ftp://host", "http://", "http://host:port", "http://[::1"])
def test_an_endpoint_that_is_no_address(endpoint):
    with pytest.raises(ConfigError, match="not a web address"):
        Hub(endpoint)


@pytest.mark.parametrize("token", ["hf_\u00e9", "hf_a b", "hf_\x01"])
def test_a_token_that_cannot_be_one(token, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError, match="characters that tokens never have") as raised:
        pull("gpt2")
    assert token not in str(raised.value)


# Names and folders


def test_plain_names_and_full_names():
    assert repository_of("gpt2-xl") == "openai-community/gpt2-xl"
    assert repository_of("distilgpt2") == "distilbert/distilgpt2"
    assert repository_of("acme/Tiny_2.0") == "acme/Tiny_2.0"
    for wrong in ("gtp2", "", "a/b/c", "../b", "a/..", "a/b--c", "a/.b", "a/b\n", "a/" + "b" * 99, "http://a/b"):
        with pytest.raises(ConfigError, match="Plain names are gpt2"):
            repository_of(wrong)
    with pytest.raises(ConfigError, match="Did you mean 'gpt2'"):
        repository_of("gtp2")


@given(st.text(max_size=20) | st.from_regex(r"[./\\:a-]{0,6}", fullmatch=True))
def test_the_folder_of_a_model_is_always_directly_in_the_models_folder(name):
    try:
        folder = model_folder(name)
    except HandloomError:
        return
    assert folder.parent == models_folder()
    assert Path(os.path.normpath(folder)).parent == models_folder()


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b"])
def test_a_name_that_is_no_folders_is_refused(name):
    with pytest.raises(CheckpointError, match=r"is not the name of a model\. Models are called for example gpt2"):
        model_folder(name)


def test_where_models_are_kept(tmp_path, monkeypatch):
    assert model_folder("acme/tiny") == tmp_path / "models" / "acme--tiny"
    monkeypatch.delenv("HANDLOOM_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert models_folder() == tmp_path / "data" / "handloom" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert models_folder() == tmp_path / ".local" / "share" / "handloom" / "models"


def test_what_is_in_the_models_folder_is_listed_without_the_network(hub):
    pull("gpt2")
    pull("acme/tiny")
    for name in ("nothing", ".hidden", ".unfinished-acme--big", "by--hand"):
        (models_folder() / name).mkdir()
    (models_folder() / "a file").write_bytes(b"")
    (models_folder() / "by--hand" / "config.json").write_bytes(b"{}")
    (models_folder() / "by--hand" / "origin.json").write_bytes(b"torn {")
    hub.close()
    assert [model.name for model in local_models()] == ["acme/tiny", "by/hand", "gpt2"]
    assert all(model_folder(model.name) == model.folder for model in local_models())
    assert [name for name, _ in unfinished_pulls()] == ["acme/big"]
    assert [model.repository for model in local_models()] == ["acme/tiny", None, GPT2]


def test_nothing_but_a_pull_imports_the_client():
    script = (
        "import sys, handloom.checkpoints.pull, handloom.checkpoints.model_store as p; p.local_models(); "
        "print({'huggingface_hub', 'hf_xet', 'torch', 'httpx2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8")
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_pull_needs_neither_torch_nor_xet(hub):
    script = (
        "import sys; from handloom.checkpoints.pull import pull; pull('gpt2'); "
        "print({'torch', 'hf_xet'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8")
    assert (done.stdout, done.stderr) == ("set()\n", "")
    assert {seen.path.split("/")[1] for seen in hub.log} == {"api", "openai-community"}
    assert [seen.path for seen in hub.log if seen.path.startswith("/api")] == [f"/api/models/{GPT2}"]


def test_a_failing_disk_is_not_taken_for_a_failing_network(hub, monkeypatch):
    def refuse(self, *_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Hub, "_append", refuse)
    with pytest.raises(CheckpointError, match="Input/output error"):
        pull("gpt2")
