"""Profiles: kept, found, and discarded as soon as anything that they hold for has changed."""

from __future__ import annotations

import pytest

from handloom.hardware import profiles
from handloom.hardware.profiles import Profile

HOLDS = profiles.conditions()
PROFILE = Profile("gpt2", 2, "int8", 2, "bf16", [{"kind": "decode", "tokens_per_second": 1.5}])


def test_a_profile_is_found_again():
    assert profiles.find("m") is None
    path = profiles.keep("m", PROFILE)
    notes = []
    assert profiles.find("m", notes.append) == PROFILE
    assert notes == []
    assert profiles.kept_profiles() == [path]
    assert profiles.find("other") is None


@pytest.mark.parametrize("key", HOLDS)
def test_it_is_discarded_when_anything_changes(key):
    profiles.keep("m", PROFILE, {**HOLDS, key: "something else"})
    notes = []
    assert profiles.find("m", notes.append) is None
    assert len(notes) == 1
    assert f"another {key} (something else, now " in notes[0]
    assert profiles.find("m", notes.append) is None
    assert len(notes) == 1, "said once"
    assert profiles.kept_profiles() == []


def test_it_holds_for_processor_cores_instructions_and_versions():
    assert set(HOLDS) == {"processor", "cores", "instructions", "handloom", "torch", "native"}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"holds_for": {}, "profile": {"a": 1}}', '{"profile": 3}'])
def test_a_file_that_is_none_is_passed_over(content):
    path = profiles.keep("m", PROFILE)
    path.write_text(content, encoding="utf-8")
    assert profiles.find("m") is None


def test_identity_is_that_of_shape_and_files(tmp_path):
    import os

    shape = {"layers": 1}
    assert profiles.identity(shape) != profiles.identity({"layers": 2})
    file = tmp_path / "weights"
    file.write_bytes(b"1234")
    first = profiles.identity(shape, [tmp_path])
    assert first == profiles.identity(shape, [tmp_path]) != profiles.identity(shape)
    os.utime(file, ns=(1, 1))
    assert profiles.identity(shape, [tmp_path]) != first
    assert profiles.identity(shape, [file]) == profiles.identity(shape, [tmp_path])
